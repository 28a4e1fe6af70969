//! The insides of lists, maps and enums for `de`: what is handed to serde one element, entry or variant at a time.

use serde::{
    Deserializer,
    de::{
        DeserializeSeed, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
        Visitor, value::BorrowedStrDeserializer,
    },
    forward_to_deserialize_any,
};

use crate::config::document::{
    de::De,
    fault::Fault,
    node::{Entry, Node},
    problem::Trail,
};

pub(in crate::config) struct Items<'t, 'de> {
    pub de: De<'t, 'de>,
    pub items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((index, item)) = self.items.find(|(_, item)| !self.de.is_pruned(item)) else {
            return Ok(None);
        };
        let trail = Trail::Index(self.de.trail(), index);
        self.de.child(item, item.at, &trail).seed(seed).map(Some)
    }
}

pub(in crate::config) struct Entries<'t, 'de, I> {
    pub de: De<'t, 'de>,
    pub entries: I,
    pub current: Option<&'de Entry>,
}

impl<'de, I: Iterator<Item = &'de Entry>> MapAccess<'de> for Entries<'_, 'de, I> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.current = Some(entry);
        seed.deserialize(Name(&entry.key)).map(Some).map_err(|fault| self.de.locate_key(entry, fault))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some(entry) = self.current.take() else {
            return Err(Fault::custom("a value was read before its key"));
        };
        let trail = Trail::Key(self.de.trail(), &entry.key);
        self.de.child(&entry.value, entry.at(), &trail).seed(seed)
    }
}

/// A key: text, or a number where the type wants one.
struct Name<'de>(&'de str);

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.0.parse::<$type>() {
                Ok(number) => visitor.$visit(number),
                Err(_) => visitor.visit_borrowed_str(self.0),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Name<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.0.into_deserializer().deserialize_enum(name, variants, visitor)
    }

    numbers! {
        deserialize_u8 visit_u64 u64;
        deserialize_u16 visit_u64 u64;
        deserialize_u32 visit_u64 u64;
        deserialize_u64 visit_u64 u64;
        deserialize_i8 visit_i64 i64;
        deserialize_i16 visit_i64 i64;
        deserialize_i32 visit_i64 i64;
        deserialize_i64 visit_i64 i64;
    }

    forward_to_deserialize_any! {
        bool i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

/// `name`, or `name: value` as the only entry of a map.
pub(in crate::config) struct Variant<'t, 'de> {
    pub de: De<'t, 'de>,
    pub name: &'de str,
    pub entry: Option<&'de Entry>,
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let variant = seed.deserialize(BorrowedStrDeserializer::new(self.name));
        match (variant, self.entry) {
            (Ok(variant), _) => Ok((variant, self)),
            (Err(fault), Some(entry)) => Err(self.de.locate_key(entry, fault)),
            (Err(fault), None) => Err(fault),
        }
    }
}

impl<'de> Variant<'_, 'de> {
    /// Hands the value to `read`.
    fn value<T>(self, read: impl FnOnce(De<'_, 'de>) -> Result<T, Fault>) -> Result<T, Fault> {
        let Some(entry) = self.entry else {
            // The name was recognised, so it is none that came from a secret.
            return Err(Fault::custom(format!("`{0}` needs a value: `{0}: ...`", self.name)));
        };
        let trail = Trail::Key(self.de.trail(), &entry.key);
        read(self.de.child(&entry.value, entry.at(), &trail))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.entry {
            Some(entry) if !entry.value.is_null() => {
                let message = format!("takes no value: write `{}` alone", self.name);
                Err(self.de.locate_key(entry, Fault::custom(message)))
            }
            _ => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        self.value(|de| de.seed(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Fault> {
        self.value(|de| de.deserialize_seq(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.value(|de| de.deserialize_struct("", &[], visitor))
    }
}
