//! A node's configuration file: TOML in, everything a start needs out, or every mistake at once with its line.
//!
//! It is read like the documents are ([`store::model::read`]), so that mistakes look alike. Files it names
//! (tokens, certificates) are read here too: what is wrong with them is a mistake of the configuration, told
//! before anything was started.

pub mod addresses;
mod dns_role;
mod gate;
mod guard;
mod sections;
mod settings;
mod toml;
mod values;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use store::model::{InputError, InputErrors, read::Reader, tree::Node};

pub use self::settings::{Config, Control, Embedded, GeoIp, Guard, NodeEngine, Proxy, Store, Telemetry};
use crate::{
    reread::{Content, FileInUse},
    telemetry::log,
};

impl NodeEngine {
    /// Reads it from a node's configuration file. Files that do not lead to the engine are not opened: systemd, for one,
    /// shows a service its credentials only while it runs.
    ///
    /// # Errors
    /// Every mistake in what is read, with its line; one that is about the file itself when it cannot be read.
    pub fn load(path: &Path) -> Result<Self, Vec<InputError>> {
        let (file, text) = read(path)?;
        Self::parse(&file, &text)
    }

    /// Reads a text; `file` is what mistakes call it.
    ///
    /// # Errors
    /// Every mistake in what is read, with its line.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<InputError>> {
        parse(file, text, |reader, _, _| sections::engine(reader)).map(|(engine, _)| engine)
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Every mistake in it, with its line; one that is about the file itself when it cannot be read.
    pub fn load(path: &Path) -> Result<Self, Vec<InputError>> {
        let (file, text) = read(path)?;
        Self::parse(&file, &text)
    }

    /// Reads a text; `file` is what mistakes call it.
    ///
    /// # Errors
    /// Every mistake in it, with its line.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<InputError>> {
        let (config, tree) = parse(file, text, read_sections)?;
        let content = Content::of(&[text.as_bytes()]);
        let warnings = config.warnings(file, &tree);
        Ok(Self { file: Some(FileInUse { path: PathBuf::from(file), content }), warnings, ..config })
    }

    /// A log file that cannot be written stops nothing, so it is no mistake.
    fn warnings(&self, file: &str, tree: &Node) -> Vec<InputError> {
        let warnings = InputErrors::new(Arc::from(file));
        if let Some(path) = &self.telemetry.log.file
            && let Err(error) = log::try_file(path)
        {
            const FIELD: &str = "telemetry.log_file";
            let problem = format!(
                "cannot write to {}: {error}; the log goes to standard error until it can",
                path.display()
            );
            warnings.add(tree.line_of(FIELD), "", FIELD, problem, String::new());
        }
        warnings.into_vec()
    }
}

/// The name and the text of a file.
fn read(path: &Path) -> Result<(String, String), Vec<InputError>> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let problem = format!("cannot be read: {error}");
        let expected = "a node configuration such as deploy/config.sample.toml".to_owned();
        vec![InputError {
            file: file.as_str().into(),
            line: None,
            document: String::new(),
            field: String::new(),
            problem,
            expected,
        }]
    })?;
    Ok((file, text))
}

/// Reads a text with the reader of its sections, and gives what it says and its tree.
fn parse<T>(
    file: &str,
    text: &str,
    sections: impl FnOnce(&Reader<'_>, &Node, &InputErrors) -> Option<T>,
) -> Result<(T, Node), Vec<InputError>> {
    let mistakes = InputErrors::new(Arc::from(file));
    let tree = toml::parse(text, &mistakes);
    match sections(&Reader::new(&mistakes, "", &tree), &tree, &mistakes) {
        Some(read) if mistakes.count() == 0 => Ok((read, tree)),
        _ => Err(mistakes.into_vec()),
    }
}

/// Reads all sections, and finds listeners that cannot have their addresses together.
fn read_sections(reader: &Reader<'_>, tree: &Node, errors: &InputErrors) -> Option<Config> {
    let config = sections::node(reader)?;
    addresses::find_clashes(&config, tree, errors);
    Some(config)
}

#[cfg(test)]
mod page;
#[cfg(test)]
mod tests;
