//! Texts made from the option table: `--help` of the program and of a command, and the page
//! docs/options.md. Writes strings only.

use super::{Command, ENV_PREFIX, FOREIGN, GROUPS, Kind, OPTIONS, Opt};

/// Column of the explanations in `--help`.
const COLUMN: usize = 34;
/// Options that fit on one page.
const FEW: usize = 40;
/// Width of `--help`.
const WIDTH: usize = 100;

/// What `grpo-rt --help` prints.
pub fn overview() -> String {
    let mut out = String::from(
        "grpo-rt trains vision-language models with GRPO in one native program.\n\n\
         usage: grpo-rt COMMAND [--option value ...]\n\ncommands\n",
    );
    for command in Command::ALL {
        out += &format!("  {:<22}{}\n", command.name(), command.about());
    }
    out += "\ngrpo-rt COMMAND --help shows what matters first, --help all every option.\n\
            new here? grpo-rt demo\n";
    out
}

/// What `grpo-rt <command> --help` prints; `all` is for `--help all`.
pub fn help(command: Command, all: bool) -> String {
    let taken: Vec<&Opt> = OPTIONS.iter().filter(|o| o.accepted_by(command)).collect();
    let needed = taken.iter().filter(|o| o.required.contains(&command));
    let needed: String =
        needed.map(|o| format!(" --{} {}", o.name, o.kind.placeholder())).collect();
    let words = OPTIONS.iter().find(|o| o.positional.contains(&command));
    let words = words.map_or(String::new(), |o| format!(" {} ...", o.name.to_uppercase()));
    let more = if taken.is_empty() { "" } else { " [--option value ...]" };
    let mut out = format!("{}\n\n", sentence(command.about()));
    out += &wrap(&format!("usage: grpo-rt {}{words}{needed}{more}", command.name()), 9);
    // Commands with few options have no second page.
    let shown = |o: &&&Opt| all || taken.len() <= FEW || o.first || o.required.contains(&command);
    for group in GROUPS {
        let members: Vec<&&Opt> =
            taken.iter().filter(shown).filter(|o| o.group == *group).collect();
        if !members.is_empty() {
            out += &format!("\n{group}\n");
        }
        for opt in members {
            out += &help_of(opt, command);
        }
    }
    let hidden = taken.len() - taken.iter().filter(shown).count();
    if hidden > 0 {
        out += &format!("\n--help all shows {hidden} more options.\n");
    }
    if taken.iter().any(|o| o.name == "config") {
        out += &format!(
            "\nEvery option is also a key of the --config file and a variable {ENV_PREFIX}<NAME>.\n"
        );
    }
    out
}

/// The lines of one option in `--help`.
fn help_of(opt: &Opt, command: Command) -> String {
    let mut head = format!("  --{} {}", opt.name, opt.kind.placeholder()).trim_end().to_string();
    let default = opt.default_for(command);
    let default = match (default, opt.required.contains(&command)) {
        (_, true) => " (required)".to_string(),
        ("", _) => String::new(),
        ("false", _) if opt.kind == Kind::Bool => String::new(),
        (d, _) => format!(" (default {})", d.replace(',', " ")),
    };
    // A head that reaches into the explanations gets a line of its own.
    let text = wrap(&format!("{}{}{default}", " ".repeat(COLUMN), opt.help), COLUMN);
    if head.len() + 2 > COLUMN {
        return format!("{head}\n{text}");
    }
    head += &" ".repeat(COLUMN - head.len());
    head + &text[COLUMN..]
}

/// Breaks `text` at spaces so that no line is longer than [`WIDTH`]; later lines are indented.
fn wrap(text: &str, indent: usize) -> String {
    let start = text.len() - text.trim_start().len();
    let mut out = " ".repeat(start);
    let mut column = start;
    for (i, word) in text.split_whitespace().enumerate() {
        let width = word.chars().count();
        if i > 0 && column + 1 + width > WIDTH {
            out += "\n";
            out += &" ".repeat(indent);
            column = indent;
        } else if i > 0 {
            out += " ";
            column += 1;
        }
        out += word;
        column += width;
    }
    out + "\n"
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |c| format!("{}{}.", c.to_uppercase(), letters.as_str()))
}

/// The page docs/options.md.
pub fn docs_markdown() -> String {
    let mut out = String::from(
        "# Options\n\n\
         Made from the table in `src/options/table.rs`; to change this page, change the \
         table and run `GRPO_RT_TEST_UPDATE=1 cargo test --release --test options`.\n\n\
         An option is given as `--name value` or `--name=value` (dashes instead of underscores \
         are accepted), as a key of the file that `--config` names (YAML, TOML or JSON, flat), or \
         as an environment variable `GRPO_RT_<NAME>`. Flags win over the environment, the \
         environment over the file, the file over the default. A switch is `--name`, \
         `--name true|false` or `--no_name`. A list takes several values: `--reward_funcs \
         accuracy format`. In a variable, a list is `a,b` (paths: `a:b`) or a JSON array. `none` \
         takes back a number or switch that has no default. Variables that start with `GRPO_RT_TEST_`, \
         those of the build (`GRPO_RT_KERNELS` and others in build.rs) and `GRPO_RT_FFMPEG` (see \
         docs/data.md) are not options.\n\n\
         The options in **bold** are those that matter first.\n\n## Commands\n\n\
         | command | what it does | needs |\n|---|---|---|\n",
    );
    for &command in Command::ALL {
        let needs = OPTIONS.iter().filter(|o| o.required.contains(&command));
        let needs: Vec<String> = needs.map(|o| format!("`{}`", o.name)).collect();
        let needs = needs.join(", ");
        out += &format!("| `{}` | {} | {needs} |\n", command.name(), command.about());
    }
    for group in GROUPS {
        out += &format!(
            "\n## {group}\n\n| option | value | default | commands | what it does |\n\
             |---|---|---|---|---|\n"
        );
        for opt in OPTIONS.iter().filter(|o| o.group == *group) {
            out += &docs_row(opt);
        }
    }
    out += "\n## Names of other programs\n\n\
            Command lines and files of TRL, transformers, PEFT, VLM-R1 and Qwen-VL's trainer work as they \
            are (docs/published-commands.md). What this program has in place of such an option is said in \
            one line when it is given.\n\n| option | what it comes to here |\n|---|---|\n";
    for foreign in FOREIGN {
        let names = std::iter::once(&foreign.opt.name).chain(foreign.opt.aliases);
        let names: Vec<String> = names.map(|n| format!("`{n}`")).collect();
        out += &format!("| {} | {} |\n", names.join(" "), foreign.told().replace('|', "\\|"));
    }
    out
}

/// One row of the documentation.
fn docs_row(opt: &Opt) -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let mut name = format!("`{}`", opt.name);
    if opt.first {
        name = format!("**{name}**");
    }
    for alias in opt.aliases {
        name += &format!(" `{alias}`");
    }
    let kind = match opt.kind {
        Kind::Bool => "true\\|false".to_string(),
        kind => cell(&kind.placeholder()),
    };
    let shown = |d: &str| if d.is_empty() { String::new() } else { format!("`{}`", cell(d)) };
    let mut default = shown(opt.default);
    for (command, text) in opt.default_of {
        let comma = if default.is_empty() { "" } else { ", " };
        default += &format!("{comma}{}: {}", command.name(), shown(text));
    }
    let commands: Vec<&str> = opt.commands.iter().map(|c| c.name()).collect();
    let help = cell(opt.help).replace('<', "\\<");
    format!("| {name} | {kind} | {default} | {} | {help} |\n", commands.join(", "))
}
