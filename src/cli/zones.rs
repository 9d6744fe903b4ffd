//! Zone files on the command line: `import zone`, `file:` in Zone documents, and `check`.

mod check;
mod expand;
mod import;
mod read;

pub(super) use check::{check, duplicates, file_error, looks_like_a_zone, misnamed, shadowed};
pub(super) use expand::{Origins, expand, named_files};
pub(super) use import::{Import, import};

#[cfg(test)]
mod tests;
