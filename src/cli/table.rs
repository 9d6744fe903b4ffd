//! Tables of text: rows in aligned columns, under a title.

use std::fmt::Write as _;

/// Rows in aligned columns under their headings.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain(heads.get(at).map(|head| head.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    let heads: Vec<String> = heads.iter().map(|it| (*it).to_owned()).collect();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    text
}

/// A title and its table, or that there is nothing under it.
pub(super) fn section(text: &mut String, title: &str, heads: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        let _ = writeln!(text, "{title}: none\n");
    } else {
        let _ = writeln!(text, "{title}\n{}", table(heads, rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&["A", "LONG HEAD"], &[row(["wide cell", "x"]), row(["y", "z"])]);
        assert_eq!(text, "  A          LONG HEAD\n  wide cell  x\n  y          z\n");
    }
}
