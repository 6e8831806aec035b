//! Bytes that are sent: text, or what no text can hold.

use serde_json::{Value as Json, json};

use crate::file::{Fields, Mistakes, Node, Read, Value};

/// Bytes that are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload(pub Vec<u8>);

impl Payload {
    /// Bytes of hexadecimal digits, two each; spaces may stand between bytes.
    fn of_hex(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte = |two: &[u8]| {
            let digit = |one: u8| char::from(one).to_digit(16);
            Some((digit(*two.first()?)? * 16 + digit(*two.get(1)?)?) as u8)
        };
        digits.chunks(2).map(byte).collect::<Option<_>>().map(Self)
    }
}

impl Read for Payload {
    const NAME: &'static str = "string or hex";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        if let Value::Text(text) = &node.value {
            return Some(Self(text.clone().into_bytes()));
        }
        let mut fields = Fields::open(node, "what is sent, when it is no string,", mistakes)?;
        let hex: Option<String> = fields.required("hex", mistakes);
        fields.close(mistakes);
        let bytes = Self::of_hex(&hex?);
        if bytes.is_none() {
            mistakes.error(node.place, "`hex` does not hold hexadecimal digits, two for each byte", "");
        }
        bytes
    }
    fn schema() -> Json {
        let hex = json!({
            "type": "object", "properties": {"hex": {"type": "string"}},
            "required": ["hex"], "additionalProperties": false,
        });
        json!({"anyOf": [{"type": "string"}, hex]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_bytes() {
        assert_eq!(Payload::of_hex("00 ff\n1B"), Some(Payload(vec![0, 255, 27])));
        assert_eq!(Payload::of_hex(""), Some(Payload(vec![])));
        for text in ["0", "0g", "é0", "+1"] {
            assert_eq!(Payload::of_hex(text), None, "{text}");
        }
    }
}
