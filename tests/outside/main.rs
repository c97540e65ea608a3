//! The binary from outside: run as Wazuh's command wodle runs it, against the simulator.

mod api;
mod backfill;
mod certificates;
mod check;
mod collecting;
mod configuration;
mod confinement;
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
mod status;
mod stored;
mod tenants;
mod trust;
mod usage;
mod wodle;
