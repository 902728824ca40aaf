//! What `farkeep pool` has to say, as lines for people or as one JSON object.

use serde_json::{Map, Value};

use crate::commands::info::human;

/// Lines of a report, in order: titles, and fields with a value and sometimes a remark.
#[derive(Debug, Default)]
pub struct Report {
    sections: Vec<Section>,
}

#[derive(Debug)]
struct Section {
    /// Its name in JSON.
    name: &'static str,
    title: &'static str,
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    /// Its name in JSON.
    name: &'static str,
    label: &'static str,
    value: Value,
    /// For people only.
    remark: String,
}

impl Report {
    /// Begins a section; the fields that follow belong to it.
    pub fn section(&mut self, name: &'static str, title: &'static str) -> &mut Self {
        self.sections.push(Section { name, title, fields: Vec::new() });
        self
    }

    /// Adds a field.
    pub fn field(&mut self, name: &'static str, label: &'static str, value: impl Into<Value>) -> &mut Self {
        self.remarked(name, label, value, String::new())
    }

    /// Adds a field with a remark for people.
    pub fn remarked(
        &mut self,
        name: &'static str,
        label: &'static str,
        value: impl Into<Value>,
        remark: impl Into<String>,
    ) -> &mut Self {
        let field = Field { name, label, value: value.into(), remark: remark.into() };
        match self.sections.last_mut() {
            Some(section) => section.fields.push(field),
            None => unreachable!("a field belongs to a section"),
        }
        self
    }

    /// Adds a length in bytes, with its short form for people.
    pub fn bytes(&mut self, name: &'static str, label: &'static str, len_bytes: u64) -> &mut Self {
        self.remarked(name, label, len_bytes, human(len_bytes))
    }

    /// The report as a table.
    pub fn table(&self) -> String {
        let fields = self.sections.iter().flat_map(|section| &section.fields);
        let width = fields.map(|field| field.label.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (at, section) in self.sections.iter().enumerate() {
            if at > 0 {
                text.push('\n');
            }
            text.push_str(section.title);
            text.push('\n');
            for field in &section.fields {
                field.lines(width, &mut text);
            }
        }
        text
    }

    /// The report as JSON: an object of sections, each an object of fields.
    pub fn json(&self) -> Value {
        let sections = self.sections.iter().map(|section| {
            let fields = section.fields.iter().map(|field| (field.name.to_owned(), field.value.clone()));
            (section.name.to_owned(), Value::Object(fields.collect::<Map<_, _>>()))
        });
        Value::Object(sections.collect())
    }
}

impl Field {
    fn lines(&self, width: usize, text: &mut String) {
        let values = match &self.value {
            Value::Array(items) if items.is_empty() => vec!["none".to_owned()],
            Value::Array(items) => items.iter().map(shown).collect(),
            value => vec![shown(value)],
        };
        for (at, value) in values.iter().enumerate() {
            let label = if at == 0 { self.label } else { "" };
            let remark = if at == 0 && !self.remark.is_empty() {
                format!("  ({})", self.remark)
            } else {
                String::new()
            };
            let line = format!("  {label:width$}  {value}{remark}");
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Null => "-".to_owned(),
        Value::Object(fields) => {
            let parts: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name} {}", shown(value))).collect();
            parts.join(", ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.section("pool", "Pool").field("path", "directory", "/x").field("blank", "blank", false);
        report
            .section("log", "Log")
            .remarked("len_bytes", "length", 1024, "1.00K")
            .field("reigns", "reigns", vec!["epoch 1", "epoch 2"])
            .field("findings", "findings", Vec::<String>::new());
        report
    }

    #[test]
    fn table_is_aligned_and_lists_continue_below() {
        let expected = "Pool\n  directory  /x\n  blank      no\n\nLog\n  length     1024  (1.00K)\n  reigns     epoch 1\n             \
                        epoch 2\n  findings   none\n";
        assert_eq!(report().table(), expected);
    }

    #[test]
    fn json_has_the_same_values_without_remarks() {
        let expected = serde_json::json!({
            "pool": { "path": "/x", "blank": false },
            "log": { "len_bytes": 1024, "reigns": ["epoch 1", "epoch 2"], "findings": [] },
        });
        assert_eq!(report().json(), expected);
    }
}
