//! The gateway from outside: real sockets in front of it and behind it, the follower's end in the tests' hands.

mod backend;
mod backends;
mod balance;
mod bodies;
mod circuits;
mod client;
mod copies;
mod discovery;
mod drain;
mod ending;
mod explain;
mod faults;
mod gone;
mod hostile;
mod http;
mod instances;
mod listeners;
mod logging;
mod musts;
mod names;
mod policies;
mod refusals;
mod retry;
mod routing;
mod sites;
mod world;
