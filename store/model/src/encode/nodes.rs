//! serde's side of writing: any `Serialize` as a tree.
//!
//! Keys keep the order of the type's fields, which `serde_json::Value` would sort.

use std::fmt;

use serde::{
    Serialize, Serializer,
    ser::{
        self, Impossible, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    },
};

use crate::tree::{Entry, Node, Value};

/// What cannot be part of a tree. No document has any of it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unwritable(String);

impl ser::Error for Unwritable {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self(problem.to_string())
    }
}

type Written = Result<Node, Unwritable>;

/// The tree of a value; its nodes have no lines.
pub(super) fn node(value: &(impl Serialize + ?Sized)) -> Written {
    value.serialize(Nodes)
}

struct Nodes;

/// A list that is not complete.
struct List(Vec<Node>);

/// A map that is not complete; `tag` is the key under which a variant's content lies.
struct Map {
    tag: Option<&'static str>,
    entries: Vec<Entry>,
    key: Option<String>,
}

impl Map {
    const fn new(tag: Option<&'static str>) -> Self {
        Self { tag, entries: Vec::new(), key: None }
    }

    fn put(&mut self, key: impl Into<String>, value: &(impl Serialize + ?Sized)) -> Result<(), Unwritable> {
        let value = node(value)?;
        self.entries.push(Entry { key: key.into(), line: 0, value });
        Ok(())
    }

    fn done(self) -> Node {
        let map = Node::map(0, self.entries);
        match self.tag {
            Some(tag) => tagged(tag, map),
            None => map,
        }
    }
}

/// A variant that holds something: a map of one key.
fn tagged(tag: &str, value: Node) -> Node {
    Node::map(0, vec![Entry { key: tag.to_owned(), line: 0, value }])
}

fn unwritable<T>(what: &str) -> Result<T, Unwritable> {
    Err(Unwritable(format!("{what} cannot be written")))
}

macro_rules! scalars {
    ($($method:ident $type:ty),+) => {
        $(
            fn $method(self, value: $type) -> Written {
                Ok(Node::plain(0, value.to_string()))
            }
        )+
    };
}

impl Serializer for Nodes {
    type Ok = Node;
    type Error = Unwritable;
    type SerializeSeq = List;
    type SerializeTuple = List;
    type SerializeTupleStruct = Impossible<Node, Unwritable>;
    type SerializeTupleVariant = Impossible<Node, Unwritable>;
    type SerializeMap = Map;
    type SerializeStruct = Map;
    type SerializeStructVariant = Map;

    scalars! {
        serialize_bool bool, serialize_i8 i8, serialize_i16 i16, serialize_i32 i32, serialize_i64 i64,
        serialize_u8 u8, serialize_u16 u16, serialize_u32 u32, serialize_u64 u64, serialize_f32 f32,
        serialize_f64 f64
    }

    fn serialize_char(self, value: char) -> Written {
        Ok(Node::text(0, value))
    }

    fn serialize_str(self, value: &str) -> Written {
        Ok(Node::text(0, value))
    }

    fn serialize_bytes(self, _: &[u8]) -> Written {
        unwritable("octets")
    }

    fn serialize_none(self) -> Written {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Written {
        node(value)
    }

    fn serialize_unit(self) -> Written {
        Ok(Node::plain(0, "null"))
    }

    fn serialize_unit_struct(self, _: &'static str) -> Written {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, word: &'static str) -> Written {
        Ok(Node::text(0, word))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Written {
        node(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        word: &'static str,
        value: &T,
    ) -> Written {
        Ok(tagged(word, node(value)?))
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<List, Unwritable> {
        Ok(List(Vec::with_capacity(len.unwrap_or_default())))
    }

    fn serialize_tuple(self, len: usize) -> Result<List, Unwritable> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Unwritable> {
        unwritable(name)
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Unwritable> {
        unwritable(name)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Map, Unwritable> {
        Ok(Map::new(None))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Map, Unwritable> {
        Ok(Map::new(None))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        word: &'static str,
        _: usize,
    ) -> Result<Map, Unwritable> {
        Ok(Map::new(Some(word)))
    }
}

impl SerializeSeq for List {
    type Ok = Node;
    type Error = Unwritable;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        self.0.push(node(value)?);
        Ok(())
    }

    fn end(self) -> Written {
        Ok(Node::list(0, self.0))
    }
}

impl SerializeTuple for List {
    type Ok = Node;
    type Error = Unwritable;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Written {
        SerializeSeq::end(self)
    }
}

impl SerializeMap for Map {
    type Ok = Node;
    type Error = Unwritable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unwritable> {
        match node(key)?.value {
            Value::Scalar(scalar) => self.key = Some(scalar.text),
            Value::List(_) | Value::Map(_) => return unwritable("a list or a map as a key"),
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        let key = self.key.take().unwrap_or_default();
        self.put(key, value)
    }

    fn end(self) -> Written {
        Ok(self.done())
    }
}

impl SerializeStruct for Map {
    type Ok = Node;
    type Error = Unwritable;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Unwritable> {
        self.put(key, value)
    }

    fn end(self) -> Written {
        Ok(self.done())
    }
}

impl SerializeStructVariant for Map {
    type Ok = Node;
    type Error = Unwritable;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Unwritable> {
        self.put(key, value)
    }

    fn end(self) -> Written {
        Ok(self.done())
    }
}
