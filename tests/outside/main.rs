//! The binary from outside: run as Wazuh's command wodle runs it, against the simulator.

mod api;
mod certificates;
mod collecting;
mod configuration;
mod crash;
mod ending;
mod events;
mod faults;
mod handover;
mod harness;
mod host;
mod leaks;
mod manners;
mod notices;
mod parallel;
mod proxies;
mod resuming;
mod tenants;
mod trust;
