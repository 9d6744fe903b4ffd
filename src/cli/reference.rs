//! What is made of the descriptions of the commands: completion scripts, man pages, and the page docs/cli.md.
//!
//! All three walk the same tree of clap's, so none of them can name a command that does not exist. The scripts and pages
//! are made in memory and printed like any other result, because the generators panic when they cannot write.

use std::{io, path::Path};

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

use super::{
    arguments::{Cli, EXIT_CODES},
    failure::{Failure, Outcome},
    results::{CompletionScript, ManPages},
    show::{self, print},
};

/// Prints the completion script of a shell.
pub(super) fn completions(shell: Shell, as_json: bool) -> Outcome {
    let script = script(shell);
    if as_json { show::json(&CompletionScript { script, shell: shell.to_string() }) } else { print(&script) }
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(&Cli::command()), "waypost", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// A command without what is hidden in it: clap cannot take something away, and the scripts offer hidden commands, too.
fn visible(command: &Command) -> Command {
    let about = command.get_about().cloned().unwrap_or_default();
    Command::new(command.get_name().to_owned())
        .about(about)
        .version(env!("CARGO_PKG_VERSION"))
        .disable_version_flag(command.get_version().is_none())
        .disable_help_subcommand(true)
        .args(command.get_arguments().filter(|it| !it.is_hide_set()))
        .subcommands(command.get_subcommands().filter(|it| !it.is_hide_set()).map(visible))
}

/// Writes a man page for every command to a folder.
pub(super) fn man(dir: &Path, as_json: bool) -> Outcome {
    let failed = |path: &Path, error: &io::Error| Failure::Failed(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, &error))?;
    let mut files = Vec::new();
    for command in commands() {
        let (name, page) = man_page(command).map_err(|error| failed(dir, &error))?;
        let path = dir.join(name);
        std::fs::write(&path, page).map_err(|error| failed(&path, &error))?;
        files.push(path);
    }
    if as_json {
        return show::json(&ManPages { files });
    }
    print(&format!("{} man pages in {}\n", files.len(), dir.display()))
}

/// The name of a man page and its text in roff. Its last sections are written here, because the generator would put
/// examples and exit codes into one paragraph called EXTRA.
fn man_page(command: Command) -> io::Result<(String, Vec<u8>)> {
    let ending = Ending::of(&command);
    let (is_root, has_options) = (command.get_name() == "waypost", !options(&command).is_empty());
    let has_commands = command.get_subcommands().any(|it| !it.is_hide_set());
    let man = Man::new(command).source(concat!("waypost ", env!("CARGO_PKG_VERSION"))).manual("Waypost");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if has_options {
        man.render_options_section(&mut page)?;
    }
    if has_commands {
        man.render_subcommands_section(&mut page)?;
    }
    let mut roff = Roff::default();
    roff.control("SH", ["EXAMPLES"]).control("nf", []);
    for example in &ending.examples {
        roff.text([roman(example)]);
    }
    roff.control("fi", []).control("SH", ["EXIT STATUS"]);
    let codes = ending.exit_codes.as_deref().unwrap_or(EXIT_CODES);
    roff.text([roman(codes.trim_start_matches("Exit codes: "))]);
    if !is_root {
        roff.control("SH", ["SEE ALSO"]).text([roman("waypost(1)")]);
    }
    roff.to_writer(&mut page)?;
    Ok((man.get_filename(), page))
}

/// Every command that is not hidden, `waypost` itself first, each before its subcommands.
fn commands() -> Vec<Command> {
    fn add(command: &Command, all: &mut Vec<Command>) {
        all.push(command.clone());
        command.get_subcommands().filter(|it| !it.is_hide_set()).for_each(|it| add(it, all));
    }
    let mut root = Cli::command();
    root.build();
    let mut all = Vec::new();
    add(&root, &mut all);
    all
}

/// The arguments of a command that are neither hidden nor clap's own.
fn options(command: &Command) -> Vec<&clap::Arg> {
    let own = |it: &&clap::Arg| !it.is_hide_set() && !matches!(it.get_id().as_str(), "help" | "version");
    command.get_arguments().filter(own).collect()
}

/// What the help of a command ends with.
struct Ending {
    examples: Vec<String>,
    /// Exit codes of its own.
    exit_codes: Option<String>,
}

impl Ending {
    fn of(command: &Command) -> Self {
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples = text.lines().filter_map(|it| it.strip_prefix("  ")).map(str::to_owned).collect();
        let exit_codes = text.lines().find(|it| it.starts_with("Exit codes")).map(str::to_owned);
        Self { examples, exit_codes }
    }
}

#[cfg(test)]
mod tests;
