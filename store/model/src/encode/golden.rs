//! Every document must go on being stored and written as it was: `golden.txt` holds what releases before wrote.
//!
//! Each part of the file has three things: a document as it is stored, then as YAML, then as JSON for people. They
//! were made from arbitrary documents and the example, by the writer that named every field itself.

use super::{json, yaml};
use crate::Document;

const GOLDEN: &str = include_str!("golden.txt");

#[test]
fn documents_are_stored_and_written_as_they_were() {
    let mut parts = 0;
    for part in GOLDEN.split_terminator("%%\n") {
        let (stored, written) = part.split_once('\n').unwrap();
        let (as_yaml, as_json) = written.trim_end().rsplit_once('\n').unwrap();
        let document: Document = serde_json::from_str(stored).unwrap();
        assert_eq!(serde_json::to_string(&document).unwrap(), stored);
        assert_eq!(yaml(&document), format!("{as_yaml}\n"));
        assert_eq!(json(&document).to_string(), as_json);
        parts += 1;
    }
    assert_eq!(parts, 182);
}
