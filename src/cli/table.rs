//! Tables without borders: a line a row, never wrapped or cut, so that grep(1) and awk(1) find what is there.

use comfy_table::{ContentArrangement, Table, presets};

/// The lines of a table. What stands in the cells is printable already; an empty cell is shown as a dash.
pub(super) fn lines(header: Option<&[&str]>, rows: &[Vec<String>]) -> Vec<String> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(header) = header {
        table.set_header(header);
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| if cell.is_empty() { "-" } else { cell }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn columns_align_and_nothing_is_cut() {
        let long = "x".repeat(500);
        let rows =
            [vec!["1".to_owned(), String::new(), "é".to_owned()], vec!["22".to_owned(), "b".to_owned(), long.clone()]];
        let shown = lines(Some(&["A", "B", "C"]), &rows);
        assert_eq!(shown, ["A   B  C".to_owned(), "1   -  é".to_owned(), format!("22  b  {long}")]);
        assert_eq!(lines(None, &rows).len(), 2);
    }
}
