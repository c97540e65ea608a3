//! wodle-office365 brings the Microsoft 365 audit log into Wazuh.
//!
//! Imports run one way: the commands use the effects, the effects use the pure modules, and
//! those neither do I/O nor read a clock. The README has the map.

#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

// Pure: no I/O, no clock. A reader or a path may be an argument.
pub mod auth;
pub mod bounded;
pub mod certificate;
pub mod cloud;
pub mod codes;
pub mod config;
pub mod content;
pub mod error;
pub mod event;
pub mod health;
pub mod lenient;
pub mod memory;
pub mod notice;
pub mod ossec;
pub mod proxy;
pub mod records;
pub mod secret;
pub mod state;
pub mod timestamp;
pub mod tokens;
pub mod words;

// Effects.
pub mod api;
pub mod clock;
pub mod collect;
pub mod confine;
pub mod credentials;
pub mod http;
pub mod logging;
pub mod output;
pub mod parent;
pub mod store;
pub mod terminal;
pub mod thread;

// Entry.
pub mod args;
pub mod backfill;
pub mod check;
pub mod poll;
pub mod reset;
pub mod setup;
pub mod status;
pub mod wodle;
