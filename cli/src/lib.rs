//! The command line of retell: the program `retell`, which needs only the URL of a store, and [`Cli`], with which a program offers the same
//! commands and those that need its types.

mod args;
mod cli;
mod commands;
mod failure;
mod open;
mod out;
mod ports;
mod rabbitmq;
mod session;
mod text;

pub use cli::{Cli, main};
pub use failure::Exit;
