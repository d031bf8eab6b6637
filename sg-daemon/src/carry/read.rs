//! From bytes to a document of one cloud, with the place of whatever is wrong.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// A file that was read.
#[derive(Debug, Clone)]
pub struct Input {
    /// For messages.
    pub name: String,
    pub text: Vec<u8>,
}

/// Why a file cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not JSON, or a field has the wrong type.
    #[error(
        "{file}:{line}:{column}: {}{why}; give the document as the cloud's command prints it, whole and as JSON",
        if .path.is_empty() { String::new() } else { format!("{path}: ") }
    )]
    Json { file: String, line: usize, column: usize, path: String, why: String },
    /// It is JSON of something else.
    #[error("{file}: {why}")]
    Shape { file: String, why: String },
}

/// What a document says beside the fields that are known.
pub type Rest = BTreeMap<String, Value>;

/// Reads one document.
///
/// # Errors
///
/// If it is not JSON, or a field that is known is not what it should be; with line, column and JSON path.
pub fn document<T: DeserializeOwned>(input: &Input) -> Result<T, ReadError> {
    let text = input.text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&input.text);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let failed = |path: String, error: &serde_json::Error| {
        let text = error.to_string();
        ReadError::Json {
            file: input.name.clone(),
            line: error.line(),
            column: error.column(),
            path: if path == "." { String::new() } else { path },
            why: text.split(" at line ").next().unwrap_or_default().to_owned(),
        }
    };
    let document = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| failed(error.path().to_string(), error.inner()))?;
    deserializer.end().map_err(|error| failed(String::new(), &error))?;
    Ok(document)
}

/// For a document that has none of the lists that are needed: what it seems to be, and how to get the right one.
pub fn wrong_shape(input: &Input, rest: &Rest, expected: &str, command: &str) -> ReadError {
    let has = |name: &str| rest.contains_key(name);
    let seems = if has("SecurityGroups") || has("NetworkInterfaces") {
        "it looks like AWS's: try `sgctl import aws`".to_owned()
    } else if has("security_groups") || has("ports") {
        "it looks like Neutron's or KakaoCloud's: try `sgctl import neutron` or `sgctl import kakao`"
            .to_owned()
    } else if has("version") && has("project") {
        "it is a policy of sgd's: see `sgctl export`".to_owned()
    } else if has("Reservations") {
        "it is the answer of describe-instances".to_owned()
    } else if rest.is_empty() {
        "it is empty".to_owned()
    } else {
        let names: Vec<&str> = rest.keys().take(5).map(String::as_str).collect();
        format!("it has {}", names.join(", "))
    };
    ReadError::Shape {
        file: input.name.clone(),
        why: format!("expected an object with {expected}; {seems}. The right one comes from: {command}"),
    }
}
