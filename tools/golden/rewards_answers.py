"""Goldens of the rewards that judge answers: math_verify's verdicts, the originals' accuracy rewards.

    python tools/golden/rewards_answers.py --out tests/data/rewards \
        --vlm_r1 VLM-R1/src/open-r1-multimodal/src/open_r1 --mllm VLM-R1-fork/mllm_evaluator

Made with Python 3, math-verify 0.9.0, latex2sympy2_extended 1.11.0, sympy 1.14, trl 1.16.0, and the
files `grpo_jsonl.py` and `utils/math.py` of om-ai-lab/VLM-R1 and `accuracy_calculator.py` of
waybarrios/VLM-R1. The originals are run from where they were downloaded to; only their results are
written. Levenshtein.ratio is stated below by its published formula.
"""

import argparse
import ast
import json
import pathlib
import re
import sys
import types

# Groups of (gold, [predictions]). Both are given to math_verify as `$...$`.
PAIRS = [
    # numbers
    ("2", ["2", "2.0", "+2", "-2", "3", "20", "02", "\\frac{4}{2}", "1+1", "2.5", "{2}", "\\boxed{2}"]),
    ("-3", ["-3", "3", "-3.0", "-\\frac{6}{2}", "(-3)", "- 3"]),
    ("1000", ["1,000", "10^3", "1000.0", "1\\,000", "1{,}000", "999", "1\\times 10^3", "100"]),
    ("0", ["0", "-0", "0.0", "1", "x-x", "0x", "10^{-7}"]),
    ("12345678901234567", ["12345678901234567", "12345678901234568"]),
    ("0.5", ["0.5", "\\frac{1}{2}", ".5", "1/2", "0.50", "50\\%", "0.05", "\\frac12", "0.6"]),
    ("\\frac{1}{2}", ["0.5", "1/2", "\\dfrac{1}{2}", "\\tfrac{1}{2}", "2/4", "\\frac{2}{1}", "-\\frac{1}{2}"]),
    ("\\frac{1}{3}", ["0.333333", "0.33", "\\frac{2}{6}", "1/3", "0.3333333333", "3^{-1}", "1 \\div 3"]),
    ("0.333333", ["\\frac{1}{3}", "0.333333", "0.3333334", "0.33334"]),
    ("3.14159", ["\\pi", "3.14159", "3.1415901", "3.1416"]),
    ("-\\frac{7}{4}", ["\\frac{-7}{4}", "\\frac{7}{-4}", "-1.75", "-7/4", "\\frac{7}{4}"]),
    ("1.5\\times 10^{-3}", ["0.0015", "1.5 \\cdot 10^{-3}", "\\frac{3}{2000}", "0.015"]),
    ("6.02\\times 10^{23}", ["6.02\\cdot 10^{23}", "602\\times 10^{21}", "6.02\\times 10^{22}"]),
    ("2^{10}", ["1024", "1023", "4^5", "32^2"]),
    ("2^{100}", ["1267650600228229401496703205376", "1267650600228229401496703205377", "4^{50}"]),
    ("120", ["5!", "6!", "5\\cdot 4\\cdot 3\\cdot 2"]),
    ("10", ["\\binom{5}{2}", "\\binom{5}{3}", "\\binom{6}{2}"]),
    ("7", ["|-7|", "|7|", "\\left|-7\\right|", "-|7|", "\\lfloor 7.9 \\rfloor", "\\lceil 6.1\\rceil"]),
    # roots and constants
    ("\\sqrt{2}", ["2^{1/2}", "2^{0.5}", "\\frac{2}{\\sqrt{2}}", "1.414214", "\\sqrt 2", "\\sqrt{3}", "\\sqrt[3]{2}", "-\\sqrt{2}", "\\sqrt[4]{4}"]),
    ("2\\sqrt{2}", ["\\sqrt{8}", "2 \\cdot \\sqrt{2}", "\\sqrt{2}+\\sqrt{2}", "2+\\sqrt{2}", "8^{1/2}", "4/\\sqrt{2}"]),
    ("\\frac{\\sqrt{3}}{3}", ["\\frac{1}{\\sqrt{3}}", "\\sqrt{\\frac{1}{3}}", "\\frac{\\sqrt{3}}{2}"]),
    ("1+\\sqrt{2}", ["\\sqrt{2}+1", "\\frac{1}{\\sqrt{2}-1}", "\\sqrt{3+2\\sqrt{2}}", "1-\\sqrt{2}"]),
    ("\\sqrt{2}+\\sqrt{3}", ["\\sqrt{5}", "\\sqrt{5+2\\sqrt{6}}", "\\sqrt{3}+\\sqrt{2}"]),
    ("\\sqrt[3]{54}", ["3\\sqrt[3]{2}", "3 \\cdot 2^{1/3}", "54^{1/3}", "2\\sqrt[3]{3}"]),
    ("\\pi", ["\\pi", "3.141593", "3.14", "2\\pi/2", "\\frac{22}{7}"]),
    ("12\\pi", ["12 \\pi", "\\pi\\cdot 12", "12", "\\frac{24\\pi}{2}", "12\\pi^2"]),
    ("e^2", ["e^2", "e\\cdot e", "e^{3}/e", "e^3"]),
    ("\\frac{\\pi}{6}", ["\\pi/6", "30^\\circ", "\\frac{1}{6}\\pi"]),
    ("\\frac{\\sqrt{3}}{2}", ["\\sin(\\pi/3)", "\\cos\\frac{\\pi}{6}", "\\sin(\\pi/6)"]),
    ("\\frac{1}{2}", ["\\sin(\\frac{\\pi}{6})", "\\cos(\\pi/3)", "\\cos(\\pi/6)"]),
    ("3", ["\\log_2 8", "\\log_{2}{8}", "\\ln(e^3)", "\\log_3 8", "\\sqrt{9}", "\\sqrt[3]{27}"]),
    ("\\ln 2", ["\\ln(2)", "\\frac{\\ln 4}{2}", "\\ln 3", "-\\ln(1/2)"]),
    # variables
    ("x", ["x", "y", "2x", "x+0", "1x"]),
    ("2x+1", ["1+2x", "2 x + 1", "x+x+1", "2x-1", "2y+1", "2\\cdot x+1", "2*x+1"]),
    ("x^2-1", ["(x-1)(x+1)", "(x+1)(x-1)", "x^2+1", "x\\cdot x - 1", "(x-1)^2", "-(1-x^2)"]),
    ("(x+1)^2", ["x^2+2x+1", "(1+x)^2", "x^2+1", "(x+1)(x+1)"]),
    ("\\frac{x^2-1}{x-1}", ["x+1", "\\frac{(x-1)(x+1)}{x-1}", "x-1"]),
    ("\\frac{1}{x}", ["x^{-1}", "1/x", "\\frac{2}{2x}", "-\\frac{1}{x}"]),
    ("\\frac{a+b}{2}", ["\\frac{a}{2}+\\frac{b}{2}", "\\frac{1}{2}(a+b)", "\\frac{a-b}{2}", "0.5(b+a)"]),
    ("ab", ["ba", "a b", "a\\cdot b", "a+b"]),
    ("\\sqrt{x}", ["x^{1/2}", "x^{0.5}", "x"]),
    ("2^x", ["2^x", "2^{x}", "x^2", "4^{x/2}"]),
    ("\\sin^2 x", ["1-\\cos^2 x", "(\\sin x)^2", "\\sin x^2", "\\cos^2 x"]),
    ("x_1", ["x_1", "x_{1}", "x_2", "x"]),
    # equations and inequalities
    ("x=3", ["3", "x=3", "x = 3.0", "y=3", "x=4", "3=x"]),
    ("3", ["x=3", "y=3", "x=4", "1+2=3"]),
    ("y=2x+1", ["y=2x+1", "2x+1", "y=1+2x", "y-2x=1", "2x-y+1=0", "y=2x"]),
    ("x+y=1", ["x+y=1", "y+x=1", "2x+2y=2", "x+y=2", "1"]),
    ("x>3", ["x>3", "3<x", "x\\ge 3", "x<3", "(3,\\infty)"]),
    ("x\\le 2", ["x\\leq 2", "2\\ge x", "x<2", "(-\\infty,2]"]),
    ("1<x<2", ["1<x<2", "(1,2)", "1\\le x<2", "2>x>1"]),
    ("x\\neq 0", ["x\\ne 0", "x\\neq 0", "x=0"]),
    # sets, tuples, intervals
    ("\\{1,2,3\\}", ["\\{3,2,1\\}", "1,2,3", "\\{1,2\\}", "\\{1,2,3,4\\}", "3,1,2", "\\left\\{1,2,3\\right\\}", "\\{1,1,2,3\\}", "(1,2,3)"]),
    ("1,2", ["2,1", "1, 2", "1 \\text{ and } 2", "\\{1,2\\}", "1", "2", "1,3", "x=1, x=2", "x=1,2"]),
    ("(1,2)", ["(1,2)", "(2,1)", "(1, 2)", "[1,2]", "\\left(1,2\\right)", "1,2", "(1,2]", "(1.0,2.0)"]),
    ("[0,1]", ["[0,1]", "(0,1)", "[0,1)", "\\left[0,1\\right]", "[0,2]"]),
    ("(-\\infty,2)", ["(-\\infty, 2)", "(-\\infty,2]", "x<2", "(-\\infty,3)"]),
    ("(-\\infty,1)\\cup(2,\\infty)", ["(-\\infty,1)\\cup(2,\\infty)", "(2,\\infty)\\cup(-\\infty,1)", "(-\\infty,1]\\cup(2,\\infty)", "(-\\infty,\\infty)"]),
    ("(1,2,3)", ["(1,2,3)", "(1,3,2)", "(1, 2, 3)", "(1,2)", "(\\frac{2}{2},2,3)"]),
    ("\\emptyset", ["\\emptyset", "\\varnothing", "\\{\\}", "0"]),
    ("\\{\\frac{1}{2},\\sqrt{2}\\}", ["\\{\\sqrt{2},0.5\\}", "\\{\\sqrt{2},\\frac{2}{4}\\}", "\\{\\frac12\\}"]),
    ("\\pm 2", ["\\pm 2", "2", "-2", "\\{-2,2\\}", "2,-2"]),
    # percent, units, dressing
    ("50\\%", ["50\\%", "0.5", "\\frac{1}{2}", "50", "5\\%", "0.5\\%", "50 \\%"]),
    ("50", ["50\\%", "50", "0.5", "5000\\%"]),
    ("9.5\\%", ["0.095", "9.5", "9.5\\%", "95\\%"]),
    ("5\\text{ cm}", ["5", "5\\text{ cm}", "5\\text{cm}", "5\\mathrm{cm}", "5\\text{ m}", "6\\text{ cm}", "5 cm"]),
    ("5", ["5\\text{ cm}", "5\\text{ apples}", "5 cm", "5\\text{ m}^2", "\\$5", "5^\\circ"]),
    ("30^\\circ", ["30^\\circ", "30", "30^{\\circ}", "30\\degree", "\\frac{\\pi}{6}", "60^\\circ"]),
    ("\\$18.90", ["18.90", "\\$18.9", "18.9", "\\$1.89", "1890"]),
    ("\\text{even}", ["\\text{even}", "even", "\\text{odd}", "\\text{Even}", "\\mathrm{even}"]),
    ("\\text{(A)}", ["\\text{(A)}", "A", "\\text{A}", "B"]),
    ("\\text{A}", ["A", "\\text{A}", "B", "\\text{B}"]),
    # matrices, mixed numbers, complex numbers
    ("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", ["\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "\\begin{pmatrix}1&2\\\\4&3\\end{pmatrix}", "\\begin{pmatrix}1&\\frac{4}{2}\\\\3&4\\end{pmatrix}"]),
    ("\\frac{3}{2}", ["1\\frac{1}{2}", "1.5", "\\frac{6}{4}"]),
    ("1\\frac{1}{2}", ["\\frac{3}{2}", "1.5", "\\frac{1}{2}"]),
    ("3+4i", ["4i+3", "3-4i", "3+4i", "7i"]),
    ("i", ["i", "\\sqrt{-1}", "-i"]),
    ("-1", ["i^2", "-1", "1"]),
    ("\\infty", ["\\infty", "-\\infty", "infinity", "10^{10}"]),
    ("\\frac{1}{0}", ["\\frac{1}{0}", "0", "\\infty"]),
    ("2\\cdot 3^{4}", ["162", "6^4", "2\\times 81"]),
    ("10^{-5}", ["0.00001", "\\frac{1}{100000}", "1\\times 10^{-5}", "0"]),
]


def math_pairs():
    from math_verify import parse, verify

    for gold, predictions in PAIRS:
        parsed = parse(f"${gold}$")
        for said in predictions:
            yield {"gold": gold, "said": said, "math_verify": bool(verify(parsed, parse(f"${said}$")))}


def ratio(a, b):
    """Levenshtein.ratio: 2 * longest common subsequence / both lengths (insertions and deletions only)."""
    if not a and not b:
        return 1.0
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b):
            before, row[j + 1] = row[j + 1], before + 1 if x == y else max(row[j], row[j + 1])
    return 2 * row[-1] / (len(a) + len(b))


# (answer said, reference, columns)
ASKED = [
    ("yes", "yes"), ("Yes", "yes"), ("no", "yes"), ("yes or no", "yes"), ("", "yes"), ("I know", "no"), ("not yes", "yes"),
    ("nothing", "no"), ("true", "yes"), ("false", "no"), ("correct", "true"), ("incorrect", "false"), ("maybe", "yes"),
    ("2003", "2010"), ("2010", "2010"), ("0.04", "0"), ("0", "0"), ("0.06", "0"), ("1.0", "1"), ("-3", "3"), ("3", "-3"), ("100", "109"),
    ("100", "112"), ("8.7", "10"), ("8.712", "10"), ("0.6", "0.67234"), ("0.67", "0.67234"), ("1", "0.9999"), ("12", "12.3"), ("five", "5"),
    ("about 5 apples", "5"), ("5 apples", "5"), ("The answer is 7", "7"), ("1,000", "1000"), ("1000", "1,000"), ("3 or 4", "3"), ("4 or 3", "3"),
    ("A", "A"), ("B", "A"), ("(A)", "A"), ("A)", "A"), ("A.", "A"), ("A) 3", "B) 3"), ("a) Paris", "A"), ("A, B, C, D", "A"), ("A. B. C. D.", "A"),
    ("nikon", "nokia"), ("", "nokia"), ("nokia", "nokia"), ("Nokia.", "nokia"), ("a nokia phone", "nokia"), ("samsung", "nokia"),
    ("red", "red"), ("red ball", "red"), ("a red ball", "red ball"), ("blue ball", "red ball"), ("ball red", "red ball"), ("redd", "red"),
    ("The capital of France is Paris", "Paris"), ("London", "Paris"), ("option b", "B"), ("choice c is right", "C"), ("the answer is d", "D"),
    ("cat.", "cat"), ("cats", "cat"), ("kitten", "sitting"), ("a cat\non a mat", "a cat on a mat"), ("x", "x"), ("1/2", "0.5"), ("0.5", "1/2"),
    ("$\\frac{1}{2}$", "0.5"), ("$x^2-1$", "$(x-1)(x+1)$"), ("50%", "0.5"), ("50%", "50"), ("\\boxed{4}", "4"), ("4", "$4$"), ("2 + 2", "4"),
    ("10000000000000001", "10000000000000000"), ("3.0000001", "3"), ("insufficient information", "insufficient information"),
    ("không", "có"), ("có", "có"), ("màu đỏ", "màu đỏ"), ("màu xanh", "màu đỏ"), ("A cat and B dog", "B"), ("I think B.", "B"), ("The correct one is C.", "C"),
    ("10 cm", "10 m"), ("10 cm", "10"), ("10", "10 cm"), ("ten cm", "10 cm"), ("12:30", "12:45"), ("nan", "5"), ("inf", "5"), ("1e3", "1000"),
]


def functions_of(path, names, scope):
    """The named functions of a Python file, run in `scope`: the file as a whole needs a GPU's stack."""
    tree = ast.parse(path.read_text())
    kept = [n for n in tree.body if isinstance(n, ast.FunctionDef) and (names is None or n.name in names)]
    exec(compile(ast.Module(kept, []), str(path), "exec"), scope)
    return scope


def vlm_r1_rows(folder):
    from math_verify import parse, verify

    scope = {"re": re, "parse": parse, "verify": verify, "ratio": ratio}
    functions_of(folder / "utils" / "math.py", None, scope)
    names = ["extract_choice", "mcq_reward", "yes_no_reward", "numeric_reward", "math_reward", "clean_text", "all_match_reward", "default_accuracy_reward"]
    functions_of(folder / "grpo_jsonl.py", names, scope)
    methods = {"default": "default_accuracy_reward", "mcq": "mcq_reward", "yes_no": "yes_no_reward", "math": "math_reward"}
    for said, reference in ASKED:
        row = {"said": said, "answer": reference}
        for method, function in methods.items():
            row[method] = scope[function](f"<think>t</think>\n<answer>{said}</answer>", reference)
        yield row


def mllm_rows(folder):
    for name in ["openai", "tqdm"]:
        stand_in = types.ModuleType(name)
        stand_in.OpenAI = stand_in.tqdm = None
        sys.modules[name] = stand_in
    sys.path.insert(0, str(folder))
    from accuracy_calculator import AccuracyCalculator

    calculator = AccuracyCalculator(use_llm_grader=False)
    for said, reference in ASKED:
        result = calculator.evaluate_single("", said, reference)
        yield {"said": said, "answer": reference, "score": result.confidence if result.is_correct else 0.0}


TRL_COMPLETIONS = [
    ("\\boxed{4}", "4"), ("\\boxed{5}", "4"), ("The result is \\boxed{\\frac{1}{2}}.", "$0.5$"), ("4", "4"), ("$4$", "4"), ("The answer is $4$", "4"),
    ("The final answer is $4$. I hope it is correct.", "4"), ("Answer: $x=4$", "4"), ("\\boxed{4} and \\boxed{5}", "4"), ("\\boxed{4}, \\boxed{5}", "4"),
    ("\\boxed{3} no, it is \\boxed{4} after looking at it once more very carefully", "4"), ("\\boxed{}", "4"), ("", "4"), ("\\boxed{red}", "red"), ("\\boxed{4}", "red"),
    ("\\boxed{50\\%}", "50"), ("\\boxed{\\text{red}}", "$\\text{red}$"), ("<think>x</think><answer>4</answer>", "4"), ("<answer>\\boxed{4}</answer>", "4"),
    ("\\boxed{4 \\text{ cm}}", "4"), ("\\boxed{1,2}", "$\\{1,2\\}$"), ("\\boxed{(1,2)}", "$(1,2)$"), ("\\boxed{(2,1)}", "$(1,2)$"), ("\\boxed{1/3}", "$\\frac{1}{3}$"),
    ("$$\\boxed{4}$$", "4"), ("\\[\\boxed{4}\\]", "$4$"), ("So \\boxed{x^2-1}", "$(x-1)(x+1)$"), ("\\boxed{4", "4"), ("the answer 4", "4"), ("answer is \\(4\\)", "4"),
    ("\\boxed{0.333333}", "$\\frac{1}{3}$"), ("\\boxed{10}", "The total is 10"), ("\\boxed{12}", "there are 10 or 12"), ("\\boxed{10}", "there are 10 or 12"),
]


def trl_rows():
    from trl.rewards import accuracy_reward

    for completion, solution in TRL_COMPLETIONS:
        score = accuracy_reward([[{"role": "assistant", "content": completion}]], [solution])[0]
        yield {"completion": completion, "answer": solution, "score": score}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--vlm_r1", type=pathlib.Path)
    parser.add_argument("--mllm", type=pathlib.Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    tables = {"math_pairs": math_pairs(), "accuracy_trl": trl_rows()}
    if given.vlm_r1:
        tables["accuracy_vlm_r1"] = vlm_r1_rows(given.vlm_r1)
    if given.mllm:
        tables["accuracy_mllm"] = mllm_rows(given.mllm)
    for name, rows in tables.items():
        with open(given.out / f"{name}.jsonl", "w") as f:
            for row in rows:
                f.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
