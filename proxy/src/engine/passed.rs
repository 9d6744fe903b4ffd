//! Fields that are passed on.

use crate::http1::{Field, FieldId, decimal, field as push};

/// Appends a field as it came, its name in lower case: the same request then looks the same in every version of HTTP
/// (RFC 9113 §8.2). `keep_case`: for instances or clients that read names literally.
pub(crate) fn pass(text: &mut Vec<u8>, field: &Field, octets: &[u8], keep_case: bool) {
    let (name, value) = (field.name.get(octets), field.value.get(octets));
    match field.id {
        _ if keep_case => push(text, name, value),
        FieldId::Other => {
            let from = text.len();
            push(text, name, value);
            text[from..from + name.len()].make_ascii_lowercase();
        }
        known => push(text, known.name().as_bytes(), value),
    }
}

/// Appends a field with a number.
pub(crate) fn number(text: &mut Vec<u8>, name: &[u8], value: u64) {
    text.extend_from_slice(name);
    text.extend_from_slice(b": ");
    decimal(text, value);
    text.extend_from_slice(b"\r\n");
}
