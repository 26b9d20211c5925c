//! The emulator of GPUs: its own tests, written in C++, run here; and copies of real kernels that lack
//! a barrier, a wait or a test of bounds are noticed by it. Nothing here runs on a device.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Waves that are played, with the vendor whose they are.
const WAVES: [(u32, &str); 2] = [(32, "cuda"), (64, "hip")];
/// Orders of threads that a mistaken kernel runs in.
const ORDERS: usize = 6;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A folder of this test, emptied.
fn folder(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("emulator").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Runs the emulator's script; the folder it wrote to.
fn build(out: PathBuf, words: &[&str]) -> PathBuf {
    let script = root().join("kernels/emu/build.sh");
    let done = Command::new("sh").arg(script).arg("--out").arg(&out).args(words).output().unwrap();
    assert!(done.status.success(), "build.sh {words:?}: {}", text(&done));
    out
}

/// The executor's objects, without kernels, built once.
fn executor() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let out = folder("executor");
        let kernels = root().join("kernels/emu/tests/kernels");
        build(out, &["--kernels", &kernels.to_string_lossy()])
    })
}

/// Compiles a C++ file against the executor; kernels are found in `tree` as `common/<module>.cu`.
fn compile(source: &str, tree: &Path, wave: u32, program: &Path) {
    let objects = ["fiber", "block", "matrix", "executor"]
        .map(|o| executor().join(format!("wave{wave}")).join(format!("{o}.o")));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
    let done = Command::new(compiler)
        .args(["-std=c++17", "-O1", "-pthread", "-fno-strict-aliasing", "-ffp-contract=off"])
        .args(["-DGRT_EMU", &format!("-DGRT_WAVE={wave}"), "-I"])
        .arg(tree)
        .arg("-I")
        .arg(root().join("kernels/emu"))
        .arg(root().join("kernels/emu/tests").join(source))
        .args(objects)
        .arg("-ldl")
        .arg("-o")
        .arg(program)
        .output()
        .unwrap();
    assert!(done.status.success(), "{source} for waves of {wave}: {}", text(&done));
}

fn self_test(name: &str) {
    let dir = folder(name);
    for (wave, _) in WAVES {
        let program = dir.join(format!("wave{wave}"));
        compile(&format!("{name}.cpp"), &root().join("kernels"), wave, &program);
        let out = Command::new(&program).output().unwrap();
        let said = text(&out);
        let end = format!("{name}, waves of {wave}: ok\n");
        assert!(out.status.success() && said.ends_with(&end), "{said}");
    }
}

#[test]
fn collectives_give_what_plain_loops_give() {
    self_test("collectives");
}

#[test]
fn mistakes_are_wrong_results_or_messages() {
    self_test("mistakes");
}

#[test]
fn drivers_do_what_the_vendors_do() {
    let dir = folder("driver");
    for (wave, vendor) in WAVES {
        let program = dir.join(format!("wave{wave}"));
        compile("driver.cpp", &root().join("kernels"), wave, &program);
        let library = executor().join(format!("libgrt_emu_{vendor}.so"));
        let out = Command::new(&program).arg(library).output().unwrap();
        let said = text(&out);
        let end = format!("driver, waves of {wave}: ok\n");
        assert!(out.status.success() && said.ends_with(&end), "{said}");
    }
}

#[test]
fn a_library_can_lack_a_function() {
    let dir = folder("lacking");
    let kernels = root().join("kernels/emu/tests/kernels");
    let kernels = kernels.to_string_lossy();
    for ((wave, vendor), name) in WAVES.into_iter().zip(["cuGraphLaunch", "hipGraphLaunch"]) {
        let out = build(dir.join(vendor), &["--kernels", &kernels, "--without-symbol", name]);
        let program = dir.join(format!("wave{wave}"));
        compile("driver.cpp", &root().join("kernels"), wave, &program);
        let library = format!("libgrt_emu_{vendor}.so");
        let lacks = |library: PathBuf| {
            let done = Command::new(&program).arg(library).args(["lacks", name]).output().unwrap();
            done.status.success()
        };
        assert!(lacks(out.join(&library)), "{name} is still there");
        assert!(!lacks(executor().join(&library)), "{name} is never there");
    }
}

/// A mistake in a copy of the kernels.
struct Mistake {
    /// What is wrong, for the message.
    what: &'static str,
    /// File below kernels/.
    file: &'static str,
    /// Text that stands once in the file, and what takes its place.
    from: &'static str,
    to: &'static str,
    /// Waves for which it is a mistake.
    waves: &'static [u32],
}

const BOTH: &[u32] = &[32, 64];

/// A file's text with only these kernels left (all, if there are none): they compile quickly.
fn keep_kernels(text: &str, names: &[&str]) -> String {
    let mut out = String::new();
    let mut dropping = false;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("GRT_KERNEL(") {
            let name = rest.split(',').next().unwrap();
            dropping = !names.is_empty() && !names.contains(&name);
        }
        if !dropping {
            out.push_str(line);
            out.push('\n');
        }
        // A kernel ends with a brace at the beginning of a line, or on its only line.
        if line.starts_with('}') || (line.starts_with("GRT_KERNEL(") && line.ends_with('}')) {
            dropping = false;
        }
    }
    out
}

/// Copies the kernels' headers and one module, with or without a mistake.
fn copy_kernels(to: &Path, module: &str, names: &[&str], mistake: Option<&Mistake>) {
    let mut places = 0;
    let mut copy = |from: PathBuf, name: String| {
        let mut text = std::fs::read_to_string(from).unwrap();
        if let Some(m) = mistake.filter(|m| m.file == name) {
            assert_eq!(text.matches(m.from).count(), 1, "{}: {name} has changed", m.what);
            text = text.replace(m.from, m.to);
            places += 1;
        }
        let file = to.join(&name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let names = if name.ends_with(".cu") { names } else { &[] };
        std::fs::write(file, keep_kernels(&text, names)).unwrap();
    };
    for entry in std::fs::read_dir(root().join("kernels/include")).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("include/{}", path.file_name().unwrap().to_string_lossy());
        copy(path, name);
    }
    let file = format!("common/{module}.cu");
    copy(root().join("kernels").join(&file), file);
    assert_eq!(places, usize::from(mistake.is_some()), "the mistake is in no copied file");
}

/// What the kernels of `tree` give in several orders of threads, a line each.
fn outcomes(module: &str, tree: &Path, wave: u32) -> Vec<String> {
    let program = tree.join(format!("wave{wave}"));
    compile(&format!("run_{module}.cpp"), tree, wave, &program);
    let out = Command::new(&program).arg(ORDERS.to_string()).output().unwrap();
    assert!(out.status.success(), "{}: {}", program.display(), text(&out));
    String::from_utf8(out.stdout).unwrap().lines().map(String::from).collect()
}

/// Every mistake shows: an error, or another result than the kernels as they are have.
fn expect_caught(module: &str, kernels: &[&str], mistakes: &[Mistake]) {
    let dir = folder(&format!("{module}_mistakes"));
    let right = dir.join("right");
    copy_kernels(&right, module, kernels, None);
    let mut missed = Vec::new();
    let mut want = Vec::new();
    for (wave, _) in WAVES {
        let lines = outcomes(module, &right, wave);
        let distinct: BTreeSet<_> = lines.iter().collect();
        assert_eq!(distinct.len(), 1, "waves of {wave}: the order of threads shows: {lines:?}");
        assert_eq!(lines[0].len(), 16, "waves of {wave}: {}", lines[0]);
        want.push((wave, lines[0].clone()));
    }
    for (i, mistake) in mistakes.iter().enumerate() {
        let tree = dir.join(format!("wrong{i}"));
        copy_kernels(&tree, module, kernels, Some(mistake));
        for (wave, want) in want.iter().filter(|(w, _)| mistake.waves.contains(w)) {
            let lines = outcomes(module, &tree, *wave);
            let wrong = lines.iter().filter(|l| *l != want).count();
            let what = mistake.what;
            println!("{module}, waves of {wave}, {what}: {wrong} of {ORDERS}: {}", lines[0]);
            if wrong == 0 {
                missed.push(format!("waves of {wave}: {what}"));
            }
        }
    }
    assert!(missed.is_empty(), "nothing shows these mistakes in {module}: {missed:#?}");
}

#[test]
fn mistakes_in_norms_are_caught() {
    let kernels =
        ["rms_norm_fwd_f32", "layer_norm_fwd_f32", "layer_norm_bwd_input_f32", "fold_rows_f32"];
    let mistakes = [
        Mistake {
            what: "a block's sum reads the waves' sums without a barrier",
            file: "include/grt_reduce.h",
            from: "    grt_sync();\n    float sum = 0;",
            to: "    float sum = 0;",
            waves: BOTH,
        },
        Mistake {
            what: "a block's sum leaves its scratch without a barrier",
            file: "include/grt_reduce.h",
            from: "sum += s.part[i];\n    grt_sync();",
            to: "sum += s.part[i];",
            waves: BOTH,
        },
        Mistake {
            what: "two sums at once without a barrier",
            file: "common/norms.cu",
            from: "    grt_sync();\n    x = y = 0;",
            to: "    x = y = 0;",
            waves: BOTH,
        },
        Mistake {
            what: "sums of teams are added without a barrier",
            file: "common/norms.cu",
            from: "    grt_sync();\n    int c = grt_tid();",
            to: "    int c = grt_tid();",
            waves: BOTH,
        },
        Mistake {
            what: "the last group of a row is taken for a whole one",
            file: "common/norms.cu",
            from: "{col, 0, col, cols - col < N ? cols - col : N}",
            to: "{col, 0, col, N}",
            waves: BOTH,
        },
        Mistake {
            what: "columns beyond the last one are stored",
            file: "common/norms.cu",
            from: "if (c >= FOLD_LANES * N || first + c >= a.cols) return;",
            to: "if (c >= FOLD_LANES * N) return;",
            waves: BOTH,
        },
    ];
    expect_caught("norms", &kernels, &mistakes);
}

#[test]
fn mistakes_in_products_are_caught() {
    let kernels = ["matmul_fwd_64x64_bf16", "matmul_fwd_32x32_f32", "matmul_bwd_bias_f32"];
    let mistakes = [
        Mistake {
            what: "no wait for the copies of the next step",
            file: "include/grt_gemm.h",
            from: "                    grt_async_wait<STAGES - 2>();\n                    grt_sync();",
            to: "                    grt_sync();",
            waves: &[32],
        },
        Mistake {
            what: "no barrier after that wait",
            file: "include/grt_gemm.h",
            from: "                    grt_async_wait<STAGES - 2>();\n                    grt_sync();",
            to: "                    grt_async_wait<STAGES - 2>();",
            waves: &[32],
        },
        Mistake {
            what: "no barrier between two steps",
            file: "include/grt_gemm.h",
            from: "put(t + 1);\n            grt_sync();",
            to: "put(t + 1);",
            waves: &[64],
        },
        Mistake {
            what: "the first step is read without a barrier",
            file: "include/grt_gemm.h",
            from: "        grt_async_wait<STAGES - 2>();\n        grt_sync();\n        // Fragments",
            to: "        grt_async_wait<STAGES - 2>();\n        // Fragments",
            waves: &[32],
        },
        Mistake {
            what: "lanes read results before their neighbours wrote them",
            file: "include/grt_gemm.h",
            from: "            grt_sync_wave();\n            constexpr int RUNS",
            to: "            constexpr int RUNS",
            waves: BOTH,
        },
        Mistake {
            what: "rows and columns beyond the product are stored",
            file: "common/matmul.cu",
            from: "if (m >= a.rows || n >= a.cols) return;",
            to: "",
            waves: BOTH,
        },
        Mistake {
            what: "rows beyond a factor are read",
            file: "include/grt_gemm.h",
            from: "return round * STEP < rows_left && cols_left > 4 * half;",
            to: "return round >= 0 && cols_left > 4 * half;",
            waves: BOTH,
        },
        Mistake {
            what: "singles: no barrier between two steps",
            file: "include/grt_gemm.h",
            from: "CopyB::put(shared.b[t & 1], next_b);\n            }\n            grt_sync();",
            to: "CopyB::put(shared.b[t & 1], next_b);\n            }",
            waves: BOTH,
        },
        Mistake {
            what: "lanes' sums of a column are added without a barrier",
            file: "common/matmul.cu",
            from: "    grt_sync();\n    const int mine",
            to: "    const int mine",
            waves: BOTH,
        },
    ];
    expect_caught("matmul", &kernels, &mistakes);
}

#[test]
fn mistakes_in_attention_are_caught() {
    let kernels = ["attention_fwd_m64_d64_bf16", "attention_fwd_m16_d64_bf16"];
    let mistakes = [
        Mistake {
            what: "no wait for the keys that come in the background",
            file: "include/grt_attention.h",
            from: "            grt_async_wait<0>();\n            grt_sync();\n            if (is_block",
            to: "            grt_sync();\n            if (is_block",
            waves: &[32],
        },
        Mistake {
            what: "no barrier after that wait",
            file: "include/grt_attention.h",
            from: "            grt_async_wait<0>();\n            grt_sync();\n            if (is_block",
            to: "            grt_async_wait<0>();\n            if (is_block",
            waves: &[32],
        },
        Mistake {
            what: "keys are copied over those that are still read",
            file: "include/grt_attention.h",
            from: "            grt_sync();\n            copy(b);",
            to: "            copy(b);",
            waves: &[64],
        },
        Mistake {
            what: "keys are used before they have come",
            file: "include/grt_attention.h",
            from: "            grt_async_wait<0>();\n            grt_sync();\n        }",
            to: "            grt_sync();\n        }",
            waves: &[64],
        },
        Mistake {
            what: "the list of rows is read without a barrier",
            file: "include/grt_attention.h",
            from: "    grt_sync();\n    return true;",
            to: "    return true;",
            waves: BOTH,
        },
        Mistake {
            what: "short tiles: waves' maxima are read without a barrier",
            file: "common/attention.cu",
            from: "rest.top[w][grt_slot_row(j)] = top[j];\n        }\n        grt_sync();",
            to: "rest.top[w][grt_slot_row(j)] = top[j];\n        }",
            waves: BOTH,
        },
        Mistake {
            what: "short tiles: weights are read without a barrier",
            file: "common/attention.cu",
            from: "rest.part[w][j][lane] = part[j];\n        grt_sync();",
            to: "rest.part[w][j][lane] = part[j];",
            waves: BOTH,
        },
        Mistake {
            what: "keys beyond the last one are looked up",
            file: "include/grt_attention.h",
            from: "        if (position < rows.most)\n",
            to: "",
            waves: BOTH,
        },
        Mistake {
            what: "rows that are not there are stored",
            file: "include/grt_attention.h",
            from: "if (row < 0 || col >= head_dim) continue;",
            to: "if (col >= head_dim) continue;",
            waves: BOTH,
        },
    ];
    expect_caught("attention", &kernels, &mistakes);
}
