#![forbid(unsafe_code)]
//! Owns the page of a report: one file that is HTML and XML, with its style and its pictures inside, and nothing that runs or comes from
//! elsewhere. Must never know what it is about.

use super::Picture;
use super::history::Chart;
use super::svg::{self, Drawing, escaped};
use std::fmt::Write;

/// The rules beside those of the pictures. Colours of words stand out from the ground by 7 to 1 and more.
const STYLE: &str = "\
:root{color-scheme:light dark}
body{margin:0;background:#fff;color:#1b1e23;font:15px/1.5 system-ui,sans-serif}
main{max-width:832px;margin:0 auto;padding:24px 16px}
h1{font-size:24px;margin:0}h2{font-size:18px;margin:32px 0 0;overflow-wrap:anywhere}
p{margin:4px 0}.q{color:#50555c}
svg{display:block;max-width:calc(100% + 32px);height:auto;margin:8px -16px}
.w{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:4px 16px 4px 0;border-bottom:1px solid #d5d8dc;text-align:right;white-space:nowrap}
.l{text-align:left}
@media (prefers-color-scheme:dark){
body{background:#15171a;color:#e8eaed}.q{color:#a9afb8}th,td{border-color:#3a3f46}
}
";

/// A table: the first columns are names.
pub(super) struct Table<const N: usize> {
    pub(super) names: usize,
    pub(super) heads: [&'static str; N],
    pub(super) rows: Vec<[String; N]>,
}

/// A page while it is written.
pub(super) struct Page {
    text: String,
    is_open: bool,
}

impl Page {
    /// A page that was made at `time`.
    pub(super) fn new(time: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let text = format!(
            "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width\"/>\n<title>What changed on the disks</title>\n\
             <style>\n{}{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>What changed on the disks</h1>\n\
             <p class=\"q\">checkmap {version}, {time}</p>\n",
            svg::style(),
        );
        Self { text, is_open: false }
    }

    /// Begins the part of a disk.
    pub(super) fn begin(&mut self, title: &str, headline: &str) {
        self.close();
        self.is_open = true;
        let _ = writeln!(self.text, "<section>\n<h2>{}</h2>\n<p class=\"q\">{}</p>", escaped(title), escaped(headline));
    }

    pub(super) fn paragraph(&mut self, words: &str) {
        let _ = writeln!(self.text, "<p>{}</p>", escaped(words));
    }

    pub(super) fn map(&mut self, picture: &Picture) {
        let mut drawing = Drawing::default();
        drawing.map(picture, false);
        let _ = writeln!(self.text, "{}", drawing.inside(&format!("Where {} changed", picture.title)));
    }

    pub(super) fn chart(&mut self, chart: &Chart) {
        let mut drawing = Drawing::default();
        drawing.chart(chart, false);
        let _ = writeln!(self.text, "{}", drawing.inside(&format!("How much {} changed", chart.title)));
    }

    pub(super) fn table<const N: usize>(&mut self, table: &Table<N>) {
        let class = |column: usize| if column < table.names { " class=\"l\"" } else { "" };
        self.text += "<div class=\"w\"><table>\n<tr>";
        for (column, head) in table.heads.iter().enumerate() {
            let _ = write!(self.text, "<th{}>{}</th>", class(column), escaped(head));
        }
        self.text += "</tr>\n";
        for row in &table.rows {
            self.text += "<tr>";
            for (column, cell) in row.iter().enumerate() {
                let _ = write!(self.text, "<td{}>{}</td>", class(column), escaped(cell));
            }
            self.text += "</tr>\n";
        }
        self.text += "</table></div>\n";
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.text += "</section>\n";
        }
    }

    /// The whole page.
    pub(super) fn end(mut self) -> String {
        self.close();
        self.text + "</main>\n</body>\n</html>\n"
    }
}
