//! Reads of an object only what is used.
//!
//! A Pod is ten kilobytes of which Weir wants three hundred bytes, and a cluster has tens of thousands. What is not wanted is
//! passed over while the text is read, and never becomes a value.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What of a value is wanted. A list is wanted as each of its items is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep {
    /// All of it.
    All,
    /// These fields of a mapping.
    Only(&'static [(&'static str, Self)]),
}

impl Keep {
    fn field(self, name: &str) -> Option<Self> {
        match self {
            Self::All => Some(Self::All),
            Self::Only(fields) => fields.iter().find(|(field, _)| *field == name).map(|(_, keep)| *keep),
        }
    }
}

/// What is wanted of `text`.
pub(super) fn prune(text: &str, keep: Keep) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = keep.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

impl<'de> DeserializeSeed<'de> for Keep {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keep {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            kept.push(item);
        }
        Ok(Value::Array(kept))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            match self.field(&name) {
                Some(keep) => {
                    let value = fields.next_value_seed(keep)?;
                    // A list or mapping that is null is one that is not there: so the API conventions have it.
                    if !value.is_null() {
                        kept.insert(name, value);
                    }
                }
                None => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(kept))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_wanted_is_kept() {
        const KEEP: Keep =
            Keep::Only(&[("spec", Keep::Only(&[("ports", Keep::Only(&[("port", Keep::All)])), ("rules", Keep::All)]))]);
        let text =
            r#"{"kind":"X","spec":{"ports":[{"port":1,"name":"a"},{"port":2.5}],"rules":[{"a":[true,null,"x"]}],"z":{"a":[1]}}}"#;
        let expected = json!({"spec": {"ports": [{"port": 1}, {"port": 2.5}], "rules": [{"a": [true, null, "x"]}]}});
        assert_eq!(prune(text, KEEP).unwrap(), expected);
        assert_eq!(prune(r#"{"spec":{"ports":null,"rules":-3}}"#, KEEP).unwrap(), json!({"spec": {"rules": -3}}));
        assert!(prune("{} x", KEEP).is_err() && prune("{", KEEP).is_err());
    }

    proptest::proptest! {
        #[test]
        fn keeping_all_is_reading(number: i64, text: String, flag: bool) {
            let value = json!({"a": [number, {"b": text}], "c": flag});
            proptest::prop_assert_eq!(prune(&value.to_string(), Keep::All).unwrap(), value);
        }
    }
}
