//! A word that stands for itself, or a list of names: `own` or `["*.shop"]`.

use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};

/// The word, and what stands in the list.
pub trait Word: Default {
    const WORD: &'static str;
    const NAMES: &'static str;
    /// Of the two together, in the schema.
    const SCHEMA: &'static str;
}

#[derive(Clone, Debug, PartialEq)]
pub enum WordOrNames<W> {
    Word(W),
    Names(Vec<String>),
}

impl<W> WordOrNames<W> {
    /// A list without a name.
    pub fn is_empty(&self) -> bool {
        matches!(self, WordOrNames::Names(names) if names.is_empty())
    }
}

impl<W> Default for WordOrNames<W> {
    fn default() -> Self {
        WordOrNames::Names(Vec::new())
    }
}

impl<'de, W: Word> Deserialize<'de> for WordOrNames<W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<W>(PhantomData<W>);

        impl<'de, W: Word> Visitor<'de> for Either<W> {
            type Value = WordOrNames<W>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "`{}`, or a list of {}", W::WORD, W::NAMES)
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Self::Value, E> {
                if word == W::WORD {
                    return Ok(WordOrNames::Word(W::default()));
                }
                let (known, names) = (W::WORD, W::NAMES);
                Err(E::custom(format!("expected `{known}`, or a list of {names} (try `[\"{word}\"]`)")))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(WordOrNames::Names(names))
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<W: Word> Serialize for WordOrNames<W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            WordOrNames::Word(_) => serializer.serialize_str(W::WORD),
            WordOrNames::Names(names) => names.serialize(serializer),
        }
    }
}

impl<W: Word> JsonSchema for WordOrNames<W> {
    fn schema_name() -> Cow<'static, str> {
        W::SCHEMA.into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let names = generator.subschema_for::<Vec<String>>();
        let description = format!("`{}`, or a list of {}.", W::WORD, W::NAMES);
        json_schema!({"description": description, "anyOf": [{"const": W::WORD}, names]})
    }
}
