//! Splits LaTeX or plain mathematics into tokens: numbers with their separators, names, commands,
//! signs. Decoration (`\left`, `\displaystyle`, thin spaces, `$`) is dropped; meaning is not guessed.

/// One token. `spaced` of a word or text: white space stood before it.
#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// Digits with at most one point, and the power of ten behind `e`.
    Number { digits: String, exponent: i32 },
    /// Letters that stand together.
    Word { letters: String, spaced: bool },
    /// `\name`.
    Command(String),
    /// `\text{...}` and its kin.
    Text(String),
    /// `\{` and `\}`.
    Brace(char),
    /// One sign of plain text.
    Sign(char),
    /// `\\` between rows of a matrix.
    Row,
}

/// Longest text that is read.
pub const MOST_CHARACTERS: usize = 2000;

/// Commands that only change how a formula looks.
const DECORATION: [&str; 22] = [
    "left",
    "right",
    "mleft",
    "mright",
    "big",
    "Big",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "displaystyle",
    "textstyle",
    "limits",
    "quad",
    "qquad",
    "mathbb",
    "mathcal",
    "mathbf",
    "bm",
    "boldsymbol",
    "bf",
    "rm",
];

/// Commands whose braces hold words.
const TEXTS: [&str; 9] = [
    "text",
    "textbf",
    "textit",
    "textrm",
    "textnormal",
    "mathrm",
    "mathit",
    "mbox",
    "operatorname",
];

/// Signs of plain text and what they are in LaTeX.
const SIGNS: [(char, &str); 19] = [
    ('\u{d7}', "times"),
    ('\u{f7}', "div"),
    ('\u{b7}', "cdot"),
    ('\u{22c5}', "cdot"),
    ('\u{221a}', "sqrt"),
    ('\u{3c0}', "pi"),
    ('\u{221e}', "infty"),
    ('\u{2264}', "le"),
    ('\u{2265}', "ge"),
    ('\u{2260}', "ne"),
    ('\u{2248}', "approx"),
    ('\u{222a}', "cup"),
    ('\u{2208}', "in"),
    ('\u{2205}', "emptyset"),
    ('\u{b0}', "degree"),
    ('\u{b1}', "pm"),
    ('\u{20ac}', "euro"),
    ('\u{a3}', "GBP"),
    ('\u{a5}', "yen"),
];

/// The tokens of a text; None if it is too long or holds what is no mathematics.
pub fn tokens(text: &str) -> Option<Vec<Token>> {
    let characters: Vec<char> = text.chars().take(MOST_CHARACTERS + 1).collect();
    if characters.len() > MOST_CHARACTERS {
        return None;
    }
    let mut lexer = Lexer { text: characters, at: 0, brackets: 0, spaced: true, found: Vec::new() };
    while lexer.at < lexer.text.len() {
        lexer.step()?;
    }
    Some(lexer.found)
}

struct Lexer {
    text: Vec<char>,
    at: usize,
    /// Open parentheses, brackets and set braces: inside them commas separate.
    brackets: i32,
    spaced: bool,
    found: Vec<Token>,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn digit(&self, ahead: usize) -> bool {
        self.peek(ahead).is_some_and(|c| c.is_ascii_digit())
    }

    fn step(&mut self) -> Option<()> {
        let c = self.text[self.at];
        let spaced = std::mem::replace(&mut self.spaced, c.is_whitespace());
        if c.is_whitespace() || c == '~' {
            self.at += 1;
            self.spaced = true;
        } else if c.is_ascii_digit() || (c == '.' && self.digit(1)) {
            self.number()?;
        } else if c == '\\' {
            self.command()?;
        } else if let Some((_, name)) = SIGNS.iter().find(|(sign, _)| *sign == c) {
            self.at += 1;
            self.found.push(Token::Command((*name).to_string()));
        } else if c.is_alphabetic() {
            let letters: String =
                self.text[self.at..].iter().take_while(|c| c.is_alphabetic()).collect();
            self.at += letters.chars().count();
            self.found.push(Token::Word { letters, spaced });
        } else if c == '$' {
            // The sign of a currency if a number follows; else the end of a formula.
            self.at += 1;
            if self.digit(0) && !self.found.is_empty() {
                return None;
            }
        } else if "+-*/^_=<>!%(){}[]|,;:&'.".contains(c) {
            self.brackets += i32::from("([".contains(c)) - i32::from(")]".contains(c));
            self.at += 1;
            self.found.push(Token::Sign(c));
        } else {
            return None;
        }
        Some(())
    }

    /// A number: `1234`, `1,234.5`, `1{,}234`, `1\,234`, `.5`, `1e-3`.
    fn number(&mut self) -> Option<()> {
        let mut digits = self.digits();
        if digits.len() <= 3 {
            while let Some(width) = self.separator() {
                self.at += width;
                digits += &self.digits();
            }
        }
        if self.peek(0) == Some('.') && self.digit(1) {
            self.at += 1;
            digits = format!("{digits}.{}", self.digits());
        }
        let exponent = self.exponent()?;
        self.found.push(Token::Number { digits, exponent });
        Some(())
    }

    fn digits(&mut self) -> String {
        let run: String = self.text[self.at..].iter().take_while(|c| c.is_ascii_digit()).collect();
        self.at += run.len();
        run
    }

    /// Width of a thousands separator that stands here, before exactly three digits.
    fn separator(&self) -> Option<usize> {
        let rest = &self.text[self.at..];
        let starts = |mark: &str| {
            mark.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c)).then_some(mark.len())
        };
        let plain = if self.brackets == 0 { starts(",") } else { None };
        let width = plain.or_else(|| starts("{,}")).or_else(|| starts("\\,"));
        let width = width.or_else(|| starts("\\!"))?;
        let three = (0..3).all(|i| self.digit(width + i)) && !self.digit(width + 3);
        three.then_some(width)
    }

    /// The power of ten of `1e-3`, 0 without one.
    fn exponent(&mut self) -> Option<i32> {
        if !matches!(self.peek(0), Some('e' | 'E')) {
            return Some(0);
        }
        let sign = usize::from(matches!(self.peek(1), Some('+' | '-')));
        if !self.digit(1 + sign) {
            return Some(0);
        }
        let negative = self.peek(1) == Some('-');
        self.at += 1 + sign;
        let power: i32 = self.digits().parse().ok()?;
        Some(if negative { -power } else { power })
    }

    fn command(&mut self) -> Option<()> {
        self.at += 1;
        let c = self.peek(0)?;
        if !c.is_ascii_alphabetic() {
            self.at += 1;
            match c {
                '{' | '}' => {
                    self.brackets += if c == '{' { 1 } else { -1 };
                    self.found.push(Token::Brace(c));
                }
                '\\' => self.found.push(Token::Row),
                '%' => self.found.push(Token::Sign('%')),
                '|' => self.found.push(Token::Sign('|')),
                '$' => self.found.push(Token::Command("dollar".into())),
                ' ' => self.spaced = true,
                ',' | ';' | ':' | '!' | '(' | ')' | '[' | ']' => {}
                _ => return None,
            }
            return Some(());
        }
        let name: String =
            self.text[self.at..].iter().take_while(|c| c.is_ascii_alphabetic()).collect();
        self.at += name.len();
        if TEXTS.contains(&name.as_str()) {
            let inside = self.braced()?;
            self.found.push(Token::Text(inside.trim().to_lowercase()));
        } else if name == "begin" || name == "end" {
            let inside = self.braced()?;
            self.found.push(Token::Command(format!("{name} {inside}")));
        } else if !DECORATION.contains(&name.as_str()) {
            self.found.push(Token::Command(name));
        }
        Some(())
    }

    /// The text between braces that stand here.
    fn braced(&mut self) -> Option<String> {
        while self.peek(0) == Some(' ') {
            self.at += 1;
        }
        if self.peek(0)? != '{' {
            return None;
        }
        let inside: String = self.text[self.at + 1..].iter().take_while(|c| **c != '}').collect();
        self.at += inside.chars().count() + 2;
        (self.at <= self.text.len() && !inside.contains('{')).then_some(inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<String> {
        let number = |t: &Token| match t {
            Token::Number { digits, exponent } => Some(format!("{digits}e{exponent}")),
            _ => None,
        };
        tokens(text).unwrap_or_default().iter().filter_map(number).collect()
    }

    #[test]
    fn separators_of_thousands_and_of_lists() {
        for (text, want) in [
            ("1,234,567.5", &["1234567.5e0"][..]),
            ("1{,}000", &["1000e0"]),
            ("1\\,000", &["1000e0"]),
            ("1,2", &["1e0", "2e0"]),
            ("1, 234", &["1e0", "234e0"]),
            ("1234,567", &["1234e0", "567e0"]),
            ("1,2345", &["1e0", "2345e0"]),
            ("(1,234)", &["1e0", "234e0"]),
            (".5", &[".5e0"]),
            ("5.", &["5e0"]),
            ("1e-3", &["1e-3"]),
            ("2e^3", &["2e0", "3e0"]),
            ("1e99999999999", &[]),
        ] {
            assert_eq!(numbers(text), want, "{text}");
        }
    }

    #[test]
    fn names_texts_and_what_is_no_mathematics() {
        let two = tokens("\\left\\{\\text{ Even }x").unwrap();
        let word = Token::Word { letters: "x".into(), spaced: false };
        assert_eq!(two, [Token::Brace('{'), Token::Text("even".into()), word]);
        assert_eq!(tokens("5\\$").unwrap().len(), 2);
        for text in ["a # b", "\\text{a", "\\text{{a}}", "\\", "\\#", "5 $6", &"1".repeat(2001)] {
            assert_eq!(tokens(text), None, "{text}");
        }
    }
}
