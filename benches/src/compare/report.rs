//! Tables for people, one object for machines.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::{Value, json};

use crate::machine::Facts;

/// What a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    pub fn holds(self, measured: f64) -> bool {
        match self {
            Self::AtLeast(least) => measured >= least,
            Self::AtMost(most) => measured <= most,
        }
    }

    fn show(self, unit: &str) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {}", show(least, unit)),
            Self::AtMost(most) => format!("<= {}", show(most, unit)),
        }
    }
}

/// A figure that must reach a bound.
#[derive(Debug, Clone)]
pub struct Bar {
    pub number: u32,
    pub what: String,
    pub measured: f64,
    pub bound: Bound,
    /// `x` for ratios.
    pub unit: &'static str,
    /// Aims are worth striving for; missing one is no failure.
    pub is_aim: bool,
}

impl Bar {
    fn verdict(&self) -> &'static str {
        match (self.bound.holds(self.measured), self.is_aim) {
            (true, _) => "met",
            (false, true) => "below the aim",
            (false, false) => "MISSED",
        }
    }
}

/// What one part of the comparison found.
#[derive(Debug)]
pub struct Findings {
    pub title: String,
    pub tables: Vec<(String, Table)>,
    pub bars: Vec<Bar>,
    pub figures: Value,
}

impl Findings {
    pub fn print(&self) {
        println!("\n## {}", self.title);
        for (caption, table) in &self.tables {
            println!("\n{caption}\n\n{table}");
        }
    }
}

/// The whole run.
#[derive(Debug)]
pub struct Report {
    machine: Facts,
    findings: Vec<Findings>,
    failures: Vec<(String, String)>,
}

impl Report {
    pub fn new(machine: Facts) -> Self {
        Self { machine, findings: Vec::new(), failures: Vec::new() }
    }

    pub fn add(&mut self, findings: Findings) {
        self.findings.push(findings);
    }

    pub fn fail(&mut self, part: &str, error: &anyhow::Error) {
        eprintln!("{part}: {error:#}");
        self.failures.push((part.to_owned(), format!("{error:#}")));
    }

    /// Whether every part that was asked for ran to its end, whatever its figures.
    pub fn complete(&self) -> bool {
        self.failures.is_empty()
    }

    pub fn print_machine(&self) {
        for (name, value) in &self.machine {
            println!("{name:>10}  {value}");
        }
    }

    pub fn print_bars(&self) {
        let mut bars: Vec<&Bar> = self.findings.iter().flat_map(|findings| &findings.bars).collect();
        bars.sort_by_key(|bar| bar.number);
        if !bars.is_empty() {
            let mut table = table(&["bar", "what", "measured", "needed", "verdict"], &[2, 3]);
            for bar in bars {
                table.add_row([
                    bar.number.to_string(),
                    bar.what.clone(),
                    show(bar.measured, bar.unit),
                    bar.bound.show(bar.unit),
                    bar.verdict().to_owned(),
                ]);
            }
            println!("\n## Bars\n\n{table}");
        }
        for (part, error) in &self.failures {
            println!("\nNOT MEASURED: {part}: {error}");
        }
    }

    pub fn to_json(&self) -> Value {
        let machine: serde_json::Map<String, Value> =
            self.machine.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let bars: Vec<Value> = self
            .findings
            .iter()
            .flat_map(|findings| &findings.bars)
            .map(|bar| {
                json!({
                    "bar": bar.number, "what": bar.what, "measured": bar.measured, "unit": bar.unit,
                    "needed": bar.bound.show(bar.unit), "verdict": bar.verdict(),
                })
            })
            .collect();
        let parts: Vec<Value> = self
            .findings
            .iter()
            .map(|findings| json!({ "title": findings.title, "figures": findings.figures }))
            .collect();
        let failures: Vec<Value> =
            self.failures.iter().map(|(part, error)| json!({ "part": part, "error": error })).collect();
        json!({ "machine": machine, "parts": parts, "bars": bars, "failures": failures })
    }
}

/// An empty table; the columns of `numbers` are aligned to the right.
pub fn table(header: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(ASCII_MARKDOWN)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for &index in numbers {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A figure with its unit, as precise as it deserves.
pub fn show(figure: f64, unit: &str) -> String {
    let digits = match figure.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 3,
    };
    let space = if unit.is_empty() || unit == "x" { "" } else { " " };
    format!("{figure:.digits$}{space}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_holds_up_to_and_including_itself() {
        assert!(Bound::AtLeast(2.2).holds(2.2));
        assert!(!Bound::AtLeast(2.2).holds(2.19));
        assert!(Bound::AtMost(0.5).holds(0.5));
        assert!(!Bound::AtMost(0.5).holds(f64::NAN));
    }

    #[test]
    fn figures_are_shown_as_precisely_as_they_deserve() {
        assert_eq!(show(161_234.5, ""), "161234");
        assert_eq!(show(2.345, "x"), "2.35x");
        assert_eq!(show(0.0123, "ms"), "0.012 ms");
    }
}
