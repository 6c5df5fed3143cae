//! Checks JSON against the files of `schema/`, by as much of JSON Schema as these use: the crates that know all of it bring many
//! others with them. An unknown keyword fails, so that none is passed over in silence.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]
#![allow(dead_code, reason = "not every test program needs all of it")]

use std::path::Path;

use serde_json::Value;

/// Says something about a value without restricting it.
const NOTES: [&str; 6] = ["$schema", "title", "description", "default", "examples", "definitions"];

/// Reads `schema/NAME.schema.json`.
pub fn schema(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schema/{name}.schema.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Fails with each place at which `value` is not as `schema/NAME.schema.json` says.
#[track_caller]
pub fn assert_fits(name: &str, value: &Value) {
    let wrong = misfits(&schema(name), value);
    assert!(wrong.is_empty(), "not as schema/{name}.schema.json says:\n{}\n{value:#}", wrong.join("\n"));
}

/// Each place at which it isn't as the schema says, and how.
pub fn misfits(schema: &Value, value: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    Check { root: schema, wrong: &mut wrong }.check(schema, value, "");
    wrong
}

struct Check<'a> {
    root: &'a Value,
    wrong: &'a mut Vec<String>,
}

impl Check<'_> {
    fn check(&mut self, schema: &Value, value: &Value, at: &str) {
        for (keyword, rule) in schema.as_object().unwrap() {
            if !NOTES.contains(&keyword.as_str()) && !self.holds(keyword, rule, schema, value, at) {
                self.wrong.push(format!("{at}: {value} is against {keyword} = {rule}"));
            }
        }
    }

    /// Whether the value keeps this rule; what is inside of it is checked as well.
    fn holds(&mut self, keyword: &str, rule: &Value, schema: &Value, value: &Value, at: &str) -> bool {
        let (text, items, object) = (value.as_str(), value.as_array(), value.as_object());
        let limit = || usize::try_from(rule.as_u64().unwrap()).unwrap();
        match keyword {
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                self.check(self.root.pointer(pointer).unwrap(), value, at);
                true
            }
            "type" => match rule.as_array() {
                Some(types) => types.iter().any(|one| is_of_type(value, one)),
                None => is_of_type(value, rule),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "pattern" => text.is_none_or(|text| matches(rule.as_str().unwrap(), text)),
            "maxLength" => text.is_none_or(|text| text.chars().count() <= limit()),
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
            "minItems" => items.is_none_or(|items| items.len() >= limit()),
            "maxItems" => items.is_none_or(|items| items.len() <= limit()),
            "minProperties" => object.is_none_or(|object| object.len() >= limit()),
            "maxProperties" => object.is_none_or(|object| object.len() <= limit()),
            "required" => object.is_none_or(|object| {
                rule.as_array().unwrap().iter().all(|key| object.contains_key(key.as_str().unwrap()))
            }),
            "oneOf" => {
                let fits = rule.as_array().unwrap().iter().filter(|one| {
                    let mut wrong = Vec::new();
                    Check { root: self.root, wrong: &mut wrong }.check(one, value, at);
                    wrong.is_empty()
                });
                fits.count() == 1
            }
            "items" => {
                for (index, item) in items.into_iter().flatten().enumerate() {
                    self.check(rule, item, &format!("{at}[{index}]"));
                }
                true
            }
            "properties" => {
                for (key, inner) in object.into_iter().flatten() {
                    if let Some(rule) = rule.get(key) {
                        self.check(rule, inner, &format!("{at}.{key}"));
                    }
                }
                true
            }
            "propertyNames" => {
                for key in object.into_iter().flatten().map(|(key, _)| key) {
                    self.check(rule, &key.as_str().into(), &format!("{at} (a key)"));
                }
                true
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                let mut others =
                    object.into_iter().flatten().filter(|(key, _)| known.is_none_or(|k| !k.contains_key(*key)));
                if rule == &Value::Bool(false) {
                    return others.next().is_none();
                }
                for (key, inner) in others {
                    self.check(rule, inner, &format!("{at}.{key}"));
                }
                true
            }
            _ => panic!("{keyword}: tests/schemas/mod.rs doesn't know this keyword"),
        }
    }
}

fn is_of_type(value: &Value, name: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        other => panic!("{other}: tests/schemas/mod.rs doesn't know this type"),
    }
}

/// The regular expressions of the schemas, each spelled out.
fn matches(pattern: &str, text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    match pattern {
        "^[0-9]+(ms|s|m)$" => {
            let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
            unit.len() < text.len() && matches!(unit, "ms" | "s" | "m")
        }
        "^[a-z0-9][a-z0-9-]*$" => text.starts_with(word) && text.chars().all(|c| word(c) || c == '-'),
        "^http://" => text.starts_with("http://"),
        "^(restart|stop|start|signal .+)$" => {
            matches!(text, "restart" | "stop" | "start")
                || text.strip_prefix("signal ").is_some_and(|name| !name.is_empty())
        }
        _ => panic!("{pattern}: tests/schemas/mod.rs doesn't know this pattern"),
    }
}
