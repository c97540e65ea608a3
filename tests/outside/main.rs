//! The binary from outside: run as Wazuh's command wodle runs it, against the simulator.

mod api;
mod collecting;
mod configuration;
mod crash;
mod ending;
mod events;
mod faults;
mod handover;
mod harness;
mod host;
mod manners;
mod network;
mod notices;
mod parallel;
mod resuming;
