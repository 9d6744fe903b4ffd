//! The vocabulary: names, units and the declarative documents every part of the program speaks of.
//!
//! These types are what *runs*, not what was written: they exist only once decoding has accepted a document,
//! so no later code checks again. They serialise to the stored and the JSON form; files have YAML, read by
//! a reader into a tree that remembers lines, so that every error can name its place.

#[cfg(any(test, feature = "arbitrary"))]
pub mod arbitrary;
mod by_name;
pub mod decode;
mod digest;
mod documents;
pub mod encode;
mod family;
mod generation;
pub mod glob;
mod input_error;
mod name;
mod rcode;
pub mod rdata;
pub mod read;
#[cfg(any(test, feature = "testing"))]
pub mod reference;
pub mod tree;
mod units;
mod words;
mod world;
pub mod yaml;

pub use by_name::{ByName, Named};
pub use decode::parse;
pub use digest::sha256_hex;
pub use documents::*;
pub use family::Family;
pub use generation::{Generation, NotAGeneration, SiteTag};
pub use input_error::{InputError, InputErrors};
pub use name::{DomainName, Name, NameError};
pub use rcode::Rcode;
pub use tree::{Place, Placed};
pub use units::{Moment, NotASize, Percent, Size, Span, SpanError, Ttl, Weight};
pub use words::{UnknownWord, Words};
pub use world::{
    Checked, MAX_SITES, Origin, Places, Replacement, Sources, Steered, World, ended_overrides, implied_by,
    implied_route, is_implied,
};
