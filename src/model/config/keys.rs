//! Typed access to the keys of one JSON object, with errors that name file and key. A wrong type is
//! never read as a missing key.

use crate::base::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// Reads a JSON file of a model folder.
///
/// # Errors
/// If it cannot be read or is no JSON.
pub fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        Error::io("cannot read the model's configuration", path, &e).hint(
            "give the folder that holds config.json, tokenizer.json and the weights of a model",
        )
    })?;
    serde_json::from_str(&text).map_err(|e| {
        Error::data("the file is not JSON")
            .file(path)
            .line(e.line())
            .found(e.to_string())
            .hint("the file is damaged or was not copied completely; fetch it again")
    })
}

/// One JSON object with the file and the path that lead to it, for errors.
#[derive(Debug, Clone)]
pub struct Keys<'a> {
    object: Option<&'a Map<String, Value>>,
    /// The file, for errors.
    pub file: &'a Path,
    prefix: String,
}

impl<'a> Keys<'a> {
    /// The top of a file.
    ///
    /// # Errors
    /// If it is no object.
    pub fn of(value: &'a Value, file: &'a Path) -> Result<Self> {
        match value.as_object() {
            Some(object) => Ok(Keys { object: Some(object), file, prefix: String::new() }),
            None => Err(Error::data("the file is not a JSON object").file(file)),
        }
    }
    /// An object that is not there: every key has its default.
    pub fn empty(&self, key: &str) -> Keys<'a> {
        Keys { object: None, file: self.file, prefix: format!("{}{key}.", self.prefix) }
    }
    /// The value of a key; None if it is missing or null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.object?.get(key).filter(|v| !v.is_null())
    }
    /// True if the key is there with the value null.
    pub fn has_null(&self, key: &str) -> bool {
        self.object.and_then(|o| o.get(key)).is_some_and(Value::is_null)
    }
    /// The error that says what `key` should have been.
    pub fn wrong(&self, key: &str, expected: impl Into<String>) -> Error {
        let found = match self.object.and_then(|o| o.get(key)) {
            Some(value) => value.to_string(),
            None => "nothing, and its default does not fit".into(),
        };
        Error::data("the model configuration has a value that cannot be used")
            .file(self.file)
            .key(format!("{}{key}", self.prefix))
            .expected(expected)
            .found(found)
    }
    /// An object inside.
    ///
    /// # Errors
    /// If the value is none.
    pub fn object(&self, key: &str) -> Result<Option<Keys<'a>>> {
        self.get(key)
            .map(|value| match value.as_object() {
                Some(object) => Ok(Keys { object: Some(object), ..self.empty(key) }),
                None => Err(self.wrong(key, "an object")),
            })
            .transpose()
    }
    /// An object inside; a missing one has no keys.
    ///
    /// # Errors
    /// If the value is no object.
    pub fn object_or_empty(&self, key: &str) -> Result<Keys<'a>> {
        Ok(self.object(key)?.unwrap_or_else(|| self.empty(key)))
    }
    /// A text.
    ///
    /// # Errors
    /// If the value is none.
    pub fn string(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key)
            .map(|value| value.as_str().ok_or_else(|| self.wrong(key, "a string")))
            .transpose()
    }
    /// True or false.
    ///
    /// # Errors
    /// If the value is neither.
    pub fn boolean(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }
    /// A number that is not negative.
    ///
    /// # Errors
    /// If the value is none.
    pub fn float(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|x| *x >= 0.0)
                .ok_or_else(|| self.wrong(key, "a number that is not negative")),
        }
    }
    /// A whole number.
    ///
    /// # Errors
    /// If the value is none.
    pub fn size_or_zero(&self, key: &str, default: usize) -> Result<usize> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => one_size(value).ok_or_else(|| self.wrong(key, "a whole number")),
        }
    }
    /// A whole number above 0.
    ///
    /// # Errors
    /// If the value is none.
    pub fn size(&self, key: &str, default: usize) -> Result<usize> {
        match self.size_or_zero(key, default)? {
            0 => Err(self.wrong(key, "a whole number above 0")),
            size => Ok(size),
        }
    }
    /// A list of whole numbers.
    ///
    /// # Errors
    /// If the value is none.
    pub fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>> {
        self.get(key)
            .map(|value| {
                let list: Option<Vec<usize>> =
                    value.as_array().and_then(|list| list.iter().map(one_size).collect());
                list.ok_or_else(|| self.wrong(key, "a list of whole numbers"))
            })
            .transpose()
    }
    /// A list of numbers.
    ///
    /// # Errors
    /// If the value is none.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.get(key)
            .map(|value| {
                let list: Option<Vec<f64>> =
                    value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
                list.ok_or_else(|| self.wrong(key, "a list of numbers"))
            })
            .transpose()
    }
    /// A token id.
    ///
    /// # Errors
    /// If the value is none.
    pub fn id(&self, key: &str) -> Result<Option<u32>> {
        self.get(key)
            .map(|value| one_id(value).ok_or_else(|| self.wrong(key, "a token id")))
            .transpose()
    }
    /// One id or a list of ids.
    ///
    /// # Errors
    /// If the value is neither.
    pub fn ids(&self, key: &str) -> Result<Option<Vec<u32>>> {
        self.get(key)
            .map(|value| {
                let ids: Option<Vec<u32>> = match value.as_array() {
                    Some(list) => list.iter().map(one_id).collect(),
                    None => one_id(value).map(|id| vec![id]),
                };
                ids.ok_or_else(|| self.wrong(key, "a token id or a list of token ids"))
            })
            .transpose()
    }
    /// Rates of dropout and the like that must be 0: nothing is dropped here.
    ///
    /// # Errors
    /// If one has another value.
    pub fn must_be_zero(&self, keys: &[&str]) -> Result<()> {
        for key in keys {
            if self.float(key, 0.0)? != 0.0 {
                return Err(self.wrong(key, "0").hint("set it to 0 in config.json"));
            }
        }
        Ok(())
    }
    /// A number that only one value is supported of; a missing key means it.
    ///
    /// # Errors
    /// If it has another value.
    pub fn must_be_size(&self, key: &str, only: usize) -> Result<()> {
        match self.size(key, only)? == only {
            true => Ok(()),
            false => Err(self.wrong(key, only.to_string())),
        }
    }
    /// Checks a key that has only one supported value.
    ///
    /// # Errors
    /// If it has another.
    pub fn must_be(&self, key: &str, only: &str) -> Result<()> {
        match self.string(key)? {
            None => Ok(()),
            Some(value) if value == only => Ok(()),
            Some(_) => Err(self.wrong(key, only)),
        }
    }
}

fn one_size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok())
}

fn one_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}
