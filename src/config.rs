//! The configuration file of a node: read from TOML into everything that a start needs, or into all errors with their lines.
//!
//! It is read like documents ([`store::model::read`]), so that errors have the same form. The files that it names (tokens,
//! certificates) are read here too, so that a file that cannot be used is an error of the configuration, reported before
//! anything is started.

pub mod addresses;
mod dns_role;
mod gate;
mod guard;
mod proxy_limits;
mod proxy_role;
mod sections;
mod settings;
mod sites;
mod toml;
mod values;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use store::model::{InputError, InputErrors, read::Reader, tree::Node};

pub use self::settings::{
    AnswerFiles, Config, Control, Embedded, GeoIp, Guard, Join, NodeEngine, Proxy, Store, Telemetry,
};
use crate::{
    reread::{Content, FileInUse},
    telemetry::log,
};

impl NodeEngine {
    /// Reads it from a node's configuration file. Only files that are needed to reach the engine are opened: systemd, for
    /// example, gives a service its credentials only while it runs.
    ///
    /// # Errors
    /// Every error in what is read, with its line; or one about the file itself if it cannot be read.
    pub fn load(path: &Path) -> Result<Self, Vec<InputError>> {
        let (file, text) = read(path)?;
        Self::parse(&file, &text)
    }

    /// Reads a text; `file` is its name in errors.
    ///
    /// # Errors
    /// Every error in what is read, with its line.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<InputError>> {
        parse(file, text, |reader, _, _| sections::engine(reader)).map(|(engine, _)| engine)
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Every error in it, with its line; or one about the file itself if it cannot be read.
    pub fn load(path: &Path) -> Result<Self, Vec<InputError>> {
        let (file, text) = read(path)?;
        Self::parse(&file, &text)
    }

    /// Reads a text; `file` is its name in errors.
    ///
    /// # Errors
    /// Every error in it, with its line.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<InputError>> {
        let (config, tree) = parse(file, text, read_sections)?;
        let content = Content::of(&[text.as_bytes()]);
        let warnings = config.warnings(file, &tree);
        Ok(Self { file: Some(FileInUse { path: PathBuf::from(file), content }), warnings, ..config })
    }

    /// A log file that cannot be written does not prevent a start, so it is a warning.
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

/// Reads a file: its name and its text.
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

/// Reads a text with `sections`, and returns the result and the tree.
fn parse<T>(
    file: &str,
    text: &str,
    sections: impl FnOnce(&Reader<'_>, &Node, &InputErrors) -> Option<T>,
) -> Result<(T, Node), Vec<InputError>> {
    let errors = InputErrors::new(Arc::from(file));
    let tree = toml::parse(text, &errors);
    match sections(&Reader::new(&errors, "", &tree), &tree, &errors) {
        Some(read) if errors.count() == 0 => Ok((read, tree)),
        _ => Err(errors.into_vec()),
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
