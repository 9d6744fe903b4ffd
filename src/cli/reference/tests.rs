//! Every command is described, with an example that is right; and docs/cli.md says what the help says.

use std::fmt::Write as _;

use clap::{Arg, Parser as _, ValueEnum as _};

use super::*;

/// What comes before the commands on the page.
const HEAD: &str = include_str!("head.md");

fn path(command: &Command) -> String {
    command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned()
}

#[test]
fn every_command_has_an_example_and_every_option_a_help_text() {
    let all = commands();
    assert!(all.len() > 30, "{}", all.len());
    for command in &all {
        let name = path(command);
        assert!(command.get_about().is_some(), "{name} has no description");
        assert!(!Ending::of(command).examples.is_empty(), "{name} has no example");
        for option in options(command) {
            assert!(option.get_help().is_some(), "{name}: {} has no help text", option.get_id());
        }
    }
}

/// An example is a line for a shell: its first command is one of ours.
#[test]
fn examples_are_right() {
    for command in commands() {
        for example in Ending::of(&command).examples {
            for part in example.split('|').filter_map(|it| it.split('>').next()) {
                let parsed = Cli::try_parse_from(part.split_whitespace());
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
            assert!(example.contains(&path(&command)), "the example of {} is {example:?}", path(&command));
        }
    }
}

#[test]
fn every_shell_has_a_script_that_knows_the_commands() {
    for shell in Shell::value_variants() {
        let script = script(*shell);
        for word in ["completions", "drain", "bootstrap"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
        assert!(!script.contains("--die-with-parent"), "{shell}: an option that is hidden");
    }
}

#[test]
fn there_is_a_man_page_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("new/man1");
    man(&dir, true).unwrap();
    for command in commands() {
        let name = path(&command).replace(' ', "-");
        let page = std::fs::read_to_string(dir.join(format!("{name}.1"))).unwrap();
        assert!(page.contains(&format!(".TH {name} 1")), "{page}");
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "EXIT STATUS"] {
            let section = if section.contains(' ') { format!("\"{section}\"") } else { section.to_owned() };
            assert!(page.contains(&format!(".SH {section}\n")), "{name}: no {section}:\n{page}");
        }
    }
    assert!(!dir.join("waypost-demo-backend.1").exists());
    assert!(man(&dir.join("waypost.1"), false).is_err(), "a file is no folder");
}

/// An argument as it is written: `--file <FILE|DIR>...` with its short form, or `<NAME>`.
fn spelled(arg: &Arg) -> String {
    let values = arg.get_value_names().unwrap_or_default().iter().map(|it| format!("<{it}>"));
    let values: Vec<String> = values.collect();
    let takes = arg.get_action().takes_values();
    let long = arg.get_long().map(|it| format!("--{it}"));
    let short = arg.get_short().map(|it| format!("-{it}"));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    match (flags.is_empty(), takes) {
        (true, _) => values.join(" "),
        (false, true) => format!("{} {}", flags.join(", "), values.join(" ")),
        (false, false) => flags.join(", "),
    }
}

/// A help text with its full stop, which clap takes from comments of one sentence.
fn sentence(help: Option<&clap::builder::StyledStr>) -> String {
    let text = help.map(ToString::to_string).unwrap_or_default();
    if text.ends_with('.') { text } else { format!("{text}.") }
}

fn rows(page: &mut String, all: &[&Arg]) {
    page.push_str("| argument | meaning |\n|---|---|\n");
    for arg in all {
        let mut meaning = sentence(arg.get_help());
        let values = arg.get_possible_values();
        if arg.get_action().takes_values() && !values.is_empty() {
            let values: Vec<_> = values.iter().map(|it| format!("`{}`", it.get_name())).collect();
            let _ = write!(meaning, " One of {}.", values.join(", "));
        }
        let default: Vec<_> = arg.get_default_values().iter().map(|it| it.to_string_lossy()).collect();
        if arg.get_action().takes_values() && !default.is_empty() {
            let _ = write!(meaning, " Default: `{}`.", default.join(" "));
        }
        if let Some(env) = arg.get_env() {
            let _ = write!(meaning, " Environment: `{}`.", env.to_string_lossy());
        }
        if arg.is_required_set() {
            meaning.push_str(" Required.");
        }
        let cell = |text: &str| text.replace('|', "\\|");
        let _ = writeln!(page, "| `{}` | {} |", cell(&spelled(arg)), cell(&meaning));
    }
    page.push('\n');
}

fn documented() -> String {
    let mut page = HEAD.to_owned();
    let all = commands();
    page.push_str("## Options of every command\n\n");
    let global: Vec<_> = options(&all[0]);
    rows(&mut page, &global);
    page.push_str("## Commands\n\n| command | what it does |\n|---|---|\n");
    for command in &all[1..] {
        let (name, about) = (path(command), sentence(command.get_about()));
        let _ = writeln!(page, "| [`{name}`](#{}) | {about} |", name.replace(' ', "-"));
    }
    for command in &all[1..] {
        let about = sentence(command.get_about());
        let ending = Ending::of(command);
        let usage = command.clone().render_usage().to_string();
        let _ = write!(page, "\n### {}\n\n{about}\n\n```text\n{usage}\n```\n\n", path(command));
        let own: Vec<_> = options(command).into_iter().filter(|it| !it.is_global_set()).collect();
        if !own.is_empty() {
            rows(&mut page, &own);
        }
        let _ = write!(page, "```console\n$ {}\n```\n", ending.examples.join("\n$ "));
        if let Some(codes) = ending.exit_codes {
            let _ = write!(page, "\n{codes}\n");
        }
    }
    page
}

#[test]
fn the_page_of_commands_is_true() {
    let page = documented();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    if std::env::var_os("WAYPOST_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == page, "run this test with WAYPOST_WRITE_DOCS=1 to write {}", path.display());
}
