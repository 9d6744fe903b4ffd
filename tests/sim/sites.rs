//! Sites with an engine each, whose controls are connected: what a seed decides about them, how they reach one another, what
//! operators order at them, and what has to hold.

pub mod act;
pub mod adoption;
pub mod carry;
pub mod drains;
pub mod draw;
pub mod engines;
pub mod gateway;
pub mod load;
pub mod orders;
pub mod run;
pub mod sabotage;
pub mod settled;
