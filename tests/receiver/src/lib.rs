//! A model of the receiver: what Wazuh's JSON decoder and the dynamic mapping of its index make
//! of a line. The property tests and the fuzz targets use it to judge what the collector writes.
//!
//! - [`json`] reads strict JSON and keeps order, duplicate names and the spelling of numbers.
//! - [`cjson`] reads JSON as leniently as cJSON does.
//! - [`decoder`] turns a line into the alert that Wazuh raises.
//! - [`index`] adds alerts to one day's index, or rejects them.
//! - [`fidelity`] compares a record with the line that was written for it.
//!
//! The model follows the specification only. It shares no code with the collector.

mod grammar;

pub mod cjson;
pub mod decoder;
pub mod fidelity;
pub mod index;
pub mod json;
