//! Chat templates: the Jinja text of a model directory, rendered as transformers renders it. A
//! template sees only the messages and variables that it is given, never a file or the network.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value as Jinja};
use serde_json::{Map, Value};

use super::builtin;
use super::contents::{read_json, read_text};
use super::template_json::python_json;
use crate::base::{Error, Result};

/// Chat layout of Qwen2.5-VL in our own words: a default system message, one
/// `<|im_start|>role ... <|im_end|>` block per message, and one placeholder between vision marks per
/// image or video. Renders the same text as the template of Qwen2.5-VL-7B-Instruct (its variable
/// `add_vision_id` included).
pub const QWEN2_5_VL_TEMPLATE: &str = include_str!("templates/qwen2_5_vl.jinja");

/// A compiled chat template with the special tokens of its tokenizer.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    origin: String,
    source: String,
    /// `bos_token`, `eos_token`, ... as transformers hands them to a template.
    special: Map<String, Value>,
}

impl ChatTemplate {
    /// Finds the template of a model directory where transformers looks: `chat_template.jinja`,
    /// `chat_template.json`, then `chat_template` of `tokenizer_config.json` (a string, or a list of
    /// named templates of which `default` is taken).
    ///
    /// # Errors
    /// None of these, a file that is not JSON, or a template that does not parse.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let config_file = dir.join("tokenizer_config.json");
        let config = read_json(&config_file)?.unwrap_or(Value::Null);
        let jinja = dir.join("chat_template.jinja");
        let json = dir.join("chat_template.json");
        let (file, source) = if let Some(text) = read_text(&jinja)? {
            (jinja, text)
        } else if let Some(text) = read_json(&json)?.as_ref().and_then(template_of) {
            (json, text)
        } else if let Some(text) = template_of(&config) {
            (config_file, text)
        } else {
            return Err(Error::data("the model has no chat template")
                .file(dir)
                .expected("chat_template.jinja, chat_template.json or `chat_template` in tokenizer_config.json")
                .hint("copy chat_template.jinja from the instruction-tuned model of the same family"));
        };
        let mut template = Self::from_source(&file.display().to_string(), source)?;
        template.take_special_tokens(&config);
        Ok(template)
    }

    /// A template that comes with the program: see [`super::builtin`] for the names. It knows no
    /// special tokens; see [`ChatTemplate::with_tokens_of`].
    ///
    /// # Errors
    /// A name without a template.
    pub fn builtin(name: &str) -> Result<Self> {
        Self::from_source(&format!("built-in template {name}"), builtin::source(name)?)
    }

    /// The template with the special tokens that a model directory's tokenizer_config.json names.
    /// Among them is `add_bos_token`: tokenizers with that setting begin every text with the
    /// `bos_token`, and InternVL's built-in templates write it.
    ///
    /// # Errors
    /// A file that cannot be read or is not JSON. Without the file nothing changes.
    pub fn with_tokens_of(mut self, dir: impl AsRef<Path>) -> Result<Self> {
        let config = read_json(&dir.as_ref().join("tokenizer_config.json"))?;
        self.take_special_tokens(&config.unwrap_or(Value::Null));
        Ok(self)
    }

    fn take_special_tokens(&mut self, config: &Value) {
        for key in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            let value = config.get(key).map(|v| v.get("content").unwrap_or(v));
            if let Some(text @ Value::String(_)) = value {
                self.special.insert(key.to_owned(), text.clone());
            }
        }
        // Folders of InternLM2 may leave the setting out; its class has it on.
        let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        let on = class.starts_with("InternLM2Tokenizer");
        let set = config.get("add_bos_token").and_then(Value::as_bool);
        self.special.insert("add_bos_token".to_owned(), set.unwrap_or(on).into());
    }

    /// Compiles a template; `origin` is the name that errors use.
    ///
    /// # Errors
    /// A template that does not parse, with its line.
    pub fn from_source(origin: &str, source: impl Into<String>) -> Result<Self> {
        let source = source.into();
        let mut env = hf_environment().map_err(|e| jinja_error(origin, &e))?;
        env.add_template_owned("chat", without_generation_tags(&source))
            .map_err(|e| jinja_error(origin, &e))?;
        Ok(ChatTemplate { env, origin: origin.to_owned(), source, special: Map::new() })
    }

    /// The template's text as it was read.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where the template came from, for errors.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Does the template read messages whose content is a list of parts (the multimodal form)?
    /// Text-only templates join strings and fail on a list.
    pub fn takes_parts(&self) -> bool {
        self.source.contains("image")
    }

    /// Renders messages (`{"role", "content"}` objects). `extra` are further variables
    /// (`chat_template_kwargs`, `tools`); they win over the tokenizer's special tokens.
    ///
    /// # Errors
    /// What the template refuses (`raise_exception`) or cannot compute, with its line.
    pub fn render(
        &self,
        messages: &[Value],
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<String> {
        let mut context = self.special.clone();
        context.insert("tools".into(), Value::Null);
        context.insert("documents".into(), Value::Null);
        context.extend(extra.iter().map(|(k, v)| (k.clone(), v.clone())));
        context.insert("messages".into(), Value::Array(messages.to_vec()));
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        self.env
            .get_template("chat")
            .and_then(|t| t.render(Jinja::from(Serde(&context))))
            .map_err(|e| jinja_error(&self.origin, &e))
    }
}

/// The Jinja environment of transformers (`utils/chat_template_utils.py`): block tags eat their
/// line, loops may break, Python's string methods exist, `tojson` prints like `json.dumps`.
fn hf_environment() -> std::result::Result<Environment<'static>, minijinja::Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function(
        "raise_exception",
        |message: String| -> std::result::Result<Jinja, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    env.add_function("strftime_now", |format: String| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        strftime(&format, now)
    });
    env.add_filter("tojson", tojson);
    Ok(env)
}

fn tojson(value: &Jinja, kwargs: Kwargs) -> std::result::Result<Jinja, minijinja::Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let sort_keys: Option<bool> = kwargs.get("sort_keys")?;
    let ensure_ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    kwargs.assert_all_used()?;
    let json = serde_json::to_value(value)
        .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let separators =
        separators.as_deref().and_then(|s| Some((s.first()?.clone(), s.get(1)?.clone())));
    Ok(Jinja::from(python_json(
        &json,
        indent,
        separators,
        sort_keys.unwrap_or(false),
        ensure_ascii.unwrap_or(false),
    )))
}

/// `{% generation %}` only marks what the assistant wrote; minijinja does not know the tag. A
/// condition that always holds keeps the whitespace control of the tag as it is.
fn without_generation_tags(source: &str) -> String {
    static OPEN: std::sync::LazyLock<Option<regex::Regex>> = std::sync::LazyLock::new(|| {
        regex::Regex::new(r"\{%([-+]?)\s*generation\s*([-+]?)%\}").ok()
    });
    static CLOSE: std::sync::LazyLock<Option<regex::Regex>> = std::sync::LazyLock::new(|| {
        regex::Regex::new(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}").ok()
    });
    let (Some(open), Some(close)) = (&*OPEN, &*CLOSE) else { return source.to_owned() };
    let source = open.replace_all(source, "{%$1 if true $2%}");
    close.replace_all(&source, "{%$1 endif $2%}").into_owned()
}

/// Python's `strftime` for the directives that templates use, in UTC: the machine's time zone must
/// not change a prompt.
fn strftime(format: &str, unix: u64) -> std::result::Result<String, minijinja::Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] =
        ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    let (year, month, day, of_year) = civil_date(days);
    let (month_name, day_name) = (MONTHS[month - 1], DAYS[(days % 7) as usize]);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        out += &match chars.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('j') => format!("{of_year:03}"),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('H') => format!("{:02}", seconds / 3600),
            Some('M') => format!("{:02}", seconds / 60 % 60),
            Some('S') => format!("{:02}", seconds % 60),
            Some('%') => "%".to_owned(),
            other => {
                let what = format!("strftime_now cannot print %{}", other.unwrap_or(' '));
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, what));
            }
        };
    }
    Ok(out)
}

/// (year, month 1..=12, day 1..=31, day of the year 1..=366) of a day since 1970-01-01.
fn civil_date(days: u64) -> (u64, usize, u64, u64) {
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let of_year = left + 1;
    let february = 28 + u64::from(leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    (year, month + 1, left + 1, of_year)
}

fn template_of(config: &Value) -> Option<String> {
    match config.get("chat_template")? {
        Value::String(text) => Some(text.clone()),
        Value::Array(named) => named
            .iter()
            .find(|t| t.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|t| t.get("template"))
            .and_then(Value::as_str)
            .map(str::to_owned),
        _ => None,
    }
}

fn jinja_error(origin: &str, e: &minijinja::Error) -> Error {
    let error = Error::data("cannot render the chat template").file(origin);
    let error = match e.line() {
        Some(line) => error.line(line),
        None => error,
    };
    error
        .found(e.detail().map_or_else(|| e.to_string(), str::to_owned))
        .hint("the roles, their order or the content of the messages may not suit this template")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str, messages: &Value, generate: bool) -> Result<String> {
        let t = ChatTemplate::from_source("test", source)?;
        t.render(messages.as_array().unwrap(), generate, &Map::new())
    }

    #[test]
    fn own_template_renders_the_qwen_layout() {
        let messages = json!([{"role": "user", "content": [
            {"type": "image"}, {"type": "text", "text": " <b> & ü\n"}, {"type": "image"}]},
            {"role": "assistant", "content": "ok"}]);
        let want = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n\
            <|vision_start|><|image_pad|><|vision_end|> <b> & ü\n\
            <|vision_start|><|image_pad|><|vision_end|><|im_end|>\n\
            <|im_start|>assistant\nok<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(render(QWEN2_5_VL_TEMPLATE, &messages, true).unwrap(), want);
        let t = ChatTemplate::from_source("test", QWEN2_5_VL_TEMPLATE).unwrap();
        let extra = json!({"add_vision_id": true});
        let text =
            t.render(messages.as_array().unwrap(), false, extra.as_object().unwrap()).unwrap();
        assert!(text.contains("Picture 1: <|vision_start|>") && text.contains("Picture 2: "));
        let messages =
            json!([{"role": "system", "content": "S"}, {"role": "user", "content": "u"}]);
        assert_eq!(
            render(QWEN2_5_VL_TEMPLATE, &messages, false).unwrap(),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu<|im_end|>\n"
        );
    }

    #[test]
    fn environment_is_that_of_transformers() {
        let m = json!([{"role": "user", "content": " a,b "}]);
        // Block tags eat the line end and the indent; {% generation %} is accepted.
        let t = "{% for m in messages %}\n  {% generation %}\n{{ m.content.strip().split(',')[1] }}{% endgeneration %}\n{% endfor %}";
        assert_eq!(render(t, &m, false).unwrap(), "b");
        assert_eq!(
            render("{{ {'a': ['<é>', 1.5, none, true]} | tojson }}", &m, false).unwrap(),
            r#"{"a": ["<é>", 1.5, null, true]}"#
        );
        let t = "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}";
        assert_eq!(render(t, &m, false).unwrap(), "01");
        let e = render("a\n{{ raise_exception('roles must alternate') }}", &m, false).unwrap_err();
        assert!(e.to_string().contains("roles must alternate"), "{e}");
        assert!(e.to_string().contains("line 2"), "{e}");
        assert!(render("{% for %}", &m, false).is_err());
        assert!(render("{% if tools is none %}ok{% endif %}", &m, false).unwrap() == "ok");
        assert!(render("{{ strftime_now('%Y') }}", &m, false).unwrap().as_str() >= "2024");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let f = "%A %d %B %Y %j %b %a %y %m %H:%M:%S %%";
        // 2024-02-29 12:34:56 UTC, a Thursday in a leap year.
        assert_eq!(
            strftime(f, 1_709_210_096).unwrap(),
            "Thursday 29 February 2024 060 Feb Thu 24 02 12:34:56 %"
        );
        assert_eq!(strftime("%d.%m.%Y", 951_868_800).unwrap(), "01.03.2000");
        assert!(strftime("%Q", 0).is_err());
    }

    #[test]
    fn the_directory_is_searched_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let read = || ChatTemplate::from_dir(dir.path());
        let e = read().unwrap_err();
        assert!(e.hint_text().unwrap().contains("chat_template.jinja"));
        let named = json!({"eos_token": {"content": "</s>"}, "chat_template": [
            {"name": "tool", "template": "no"}, {"name": "default", "template": "config{{ eos_token }}"}]});
        put("tokenizer_config.json", &named.to_string());
        assert_eq!(read().unwrap().render(&[], false, &Map::new()).unwrap(), "config</s>");
        put("chat_template.json", r#"{"chat_template": "json"}"#);
        assert_eq!(read().unwrap().source(), "json");
        put("chat_template.jinja", "jinja");
        assert_eq!(read().unwrap().source(), "jinja");
        put("tokenizer_config.json", "{");
        assert!(read().unwrap_err().to_string().contains("tokenizer_config.json"));
    }
}
