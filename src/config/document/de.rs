//! serde over the tree. Every error leaves with the place of the node that it is about, and nodes on the list of
//! pruned ones are passed over as if they had not been written: together that is what lets plain derives report
//! one problem after the other (see `collect`).

use std::collections::HashSet;

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error as _, Unexpected, Visitor},
    forward_to_deserialize_any,
};

use crate::config::{
    document::{
        fault::{Fault, Spot, Wrong},
        meant,
        node::{At, Entry, Kind, Node, Scalar, Value},
        problem::Trail,
    },
    model::{
        access::{Entries, Items, Variant},
        units::SECRET,
    },
};

/// What one attempt at reading leaves out or hides, by `Node::id`.
pub(in crate::config) struct Attempt<'c> {
    pub pruned: &'c HashSet<usize>,
    /// At and below this node, `${...}` is read as written.
    pub masked: Option<usize>,
}

#[derive(Clone, Copy)]
pub(in crate::config) struct De<'t, 'de> {
    node: &'de Node,
    at: At,
    trail: &'t Trail<'t>,
    attempt: &'t Attempt<'t>,
    masked: bool,
}

impl<'t, 'de> De<'t, 'de> {
    /// `at` is where to point for problems with the node itself.
    pub(crate) fn new(node: &'de Node, at: At, trail: &'t Trail<'t>, attempt: &'t Attempt<'t>) -> Self {
        De { node, at, trail, attempt, masked: attempt.masked == Some(node.id()) }
    }

    pub(crate) fn child<'x>(&self, node: &'de Node, at: At, trail: &'x Trail<'x>) -> De<'x, 'de>
    where
        't: 'x,
    {
        let masked = self.masked || self.attempt.masked == Some(node.id());
        De { node, at, trail, attempt: self.attempt, masked }
    }

    pub(crate) fn trail(&self) -> &'t Trail<'t> {
        self.trail
    }

    /// Errors of `try_from` and the like are raised when the value has been read already; they belong to it too.
    pub(crate) fn seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self).map_err(|fault| self.locate(fault))
    }

    pub(crate) fn is_pruned(&self, node: &Node) -> bool {
        !self.attempt.pruned.is_empty() && self.attempt.pruned.contains(&node.id())
    }

    /// The entries that are left; none if this is no map.
    fn entries(&self) -> impl Iterator<Item = &'de Entry> + use<'t, 'de> {
        let de = *self;
        let map = match &self.node.value {
            Value::Map(map) => Some(map),
            _ => None,
        };
        map.into_iter().flat_map(|map| map.iter()).filter(move |entry| !de.is_pruned(&entry.value))
    }

    fn scalar<V: Visitor<'de>>(&self, scalar: &'de Scalar, visitor: V) -> Result<V::Value, Fault> {
        match self.kind(scalar) {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value) => visitor.visit_bool(value),
            Kind::Unsigned(value) => visitor.visit_u64(value),
            Kind::Signed(value) => visitor.visit_i64(value),
            Kind::Float(value) => visitor.visit_f64(value),
            Kind::Text => visitor.visit_borrowed_str(self.text(scalar)),
        }
    }

    fn kind(&self, scalar: &Scalar) -> Kind {
        match self.masked && scalar.raw.is_some() {
            true => Kind::Text,
            false => scalar.kind,
        }
    }

    fn text(&self, scalar: &'de Scalar) -> &'de str {
        if self.masked { scalar.written() } else { &scalar.text }
    }

    fn visit_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_map(Entries { de: self, entries: self.entries(), current: None })
    }

    fn visit_seq<V: Visitor<'de>>(self, items: &'de [Node], visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_seq(Items { de: self, items: items.iter().enumerate() })
    }

    fn locate(&self, fault: Fault) -> Fault {
        fault.locate(|wrong| {
            let scalar = match &self.node.value {
                Value::Scalar(scalar) => Some(scalar),
                _ => None,
            };
            let follows = match (wrong, &self.node.value) {
                (Wrong::MissingKey(key), Value::Map(map)) => {
                    map.entry(key).is_some_and(|entry| self.is_pruned(&entry.value))
                }
                _ => self.node.children().any(|child| self.is_pruned(child)),
            };
            Spot {
                node: self.node.id(),
                at: self.at,
                path: self.trail.path(),
                key: None,
                found: self.node.describe(),
                text: scalar.filter(|scalar| !scalar.is_secret()).map(|scalar| scalar.written().to_owned()),
                is_scalar: scalar.is_some(),
                is_list: matches!(self.node.value, Value::List(_)),
                list: matches!(self.node.value, Value::List(_)).then(|| self.node.flow()).flatten(),
                first_key: match &self.node.value {
                    Value::Map(map) => map.iter().next().map(|entry| entry.key.clone()),
                    _ => None,
                },
                hides: matches!(wrong, Wrong::Told(_)) && self.node.hides(),
                follows,
            }
        })
    }

    /// Faults raised over the name of `entry`.
    pub(crate) fn locate_key(&self, entry: &Entry, fault: Fault) -> Fault {
        fault.locate(|_| Spot {
            node: entry.value.id(),
            at: entry.key_at,
            path: self.trail.path(),
            key: Some(entry.key.clone()),
            found: String::new(),
            text: entry.value.flow().filter(|_| !meant::may_hold(&entry.key, &entry.value)),
            is_scalar: true,
            is_list: false,
            first_key: None,
            list: None,
            hides: false,
            follows: false,
        })
    }
}

impl<'de> Deserializer<'de> for De<'_, 'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match &self.node.value {
            Value::Scalar(scalar) => self.scalar(scalar, visitor),
            Value::List(items) => self.visit_seq(items, visitor),
            Value::Map(_) => self.visit_map(visitor),
        };
        result.map_err(|fault| self.locate(fault))
    }

    /// A token that happens to be all digits is still text; what was written out as a number is not.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Scalar(scalar) if scalar.raw.is_some() && self.kind(scalar) != Kind::Null => {
                visitor.visit_borrowed_str(self.text(scalar)).map_err(|fault| self.locate(fault))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.is_null() && !self.masked {
            true => visitor.visit_none(),
            false => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if let (SECRET, Value::Scalar(scalar)) = (name, &self.node.value) {
            scalar.mark_secret();
        }
        visitor.visit_newtype_struct(self).map_err(|fault| self.locate(fault))
    }

    /// A key with nothing after it, or with everything commented out, is an empty list.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.is_null() && !self.masked {
            true => self.visit_seq(&[], visitor).map_err(|fault| self.locate(fault)),
            false => self.deserialize_any(visitor),
        }
    }

    /// As for a list.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.is_null() && !self.masked {
            true => self.visit_map(visitor).map_err(|fault| self.locate(fault)),
            false => self.deserialize_any(visitor),
        }
    }

    /// Only a map: derived visitors would also take a list, as the fields in their order.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let found = match &self.node.value {
            Value::Map(_) => return self.deserialize_map(visitor),
            Value::Scalar(scalar) if self.kind(scalar) == Kind::Null => return self.deserialize_map(visitor),
            Value::Scalar(_) => Unexpected::Other("one value"),
            Value::List(_) => Unexpected::Seq,
        };
        Err(self.locate(Fault::invalid_type(found, &visitor).of_keys(fields)))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let result = match &self.node.value {
            Value::Scalar(scalar) if self.kind(scalar) == Kind::Text => {
                visitor.visit_enum(Variant { de: self, name: self.text(scalar), entry: None })
            }
            // Many tools load `off` and `on` as booleans (YAML 1.1), and write these.
            Value::Scalar(scalar)
                if word_of(&self.kind(scalar)).is_some_and(|word| variants.contains(&word)) =>
            {
                let name = word_of(&self.kind(scalar)).unwrap_or_default();
                visitor.visit_enum(Variant { de: self, name, entry: None })
            }
            Value::Map(_) => {
                let mut entries = self.entries();
                match (entries.next(), entries.next()) {
                    (Some(entry), None) => {
                        visitor.visit_enum(Variant { de: self, name: &entry.key, entry: Some(entry) })
                    }
                    (None, _) => Err(Fault::custom(format!("expected one of: {}", variants.join(", ")))),
                    (Some(_), Some(second)) => {
                        let message = format!("only one of these may stand here: {}", variants.join(", "));
                        Err(self.locate_key(second, Fault::custom(message)))
                    }
                }
            }
            _ => {
                let expected = format!("one of: {}", variants.join(", "));
                Err(Fault::new(Wrong::Expected { expected, of_scalar: false, keys: &[] }))
            }
        };
        result.map_err(|fault| self.locate(fault))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple
        tuple_struct identifier
    }
}

/// What a boolean was before a tool took it for one.
fn word_of(kind: &Kind) -> Option<&'static str> {
    match kind {
        Kind::Bool(false) => Some("off"),
        Kind::Bool(true) => Some("on"),
        _ => None,
    }
}
