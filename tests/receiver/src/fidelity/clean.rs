//! Whether a line's record holds nothing that the contract says is repaired.

use std::collections::HashSet;

use super::kinds::is_objects;
use super::names::equality;
use super::{MAX_LEVEL, MAX_NAME, MAX_STRING};
use crate::cjson;
use crate::json::Json;

/// Checks the members of a record as they are written. The error names the member.
pub(super) fn check(members: &[(String, Json)]) -> Result<(), String> {
    check_members(members, 0, false)
}

fn check_members(members: &[(String, Json)], level: usize, inside: bool) -> Result<(), String> {
    let mut names = HashSet::new();
    for (name, value) in members {
        let level = level + name.split('.').count();
        let fault = if name.len() > MAX_NAME {
            Some("has a long name")
        } else if name.contains('\0') || name.split('.').any(str::is_empty) {
            Some("has a name with U+0000 or an empty segment")
        } else if level > MAX_LEVEL {
            Some("is on level 17 or below")
        } else if !names.insert(equality(name)) {
            Some("has the name of another member")
        } else {
            None
        };
        let result =
            fault.map_or_else(|| check_value(value, level, inside), |fault| Err(fault.into()));
        result.map_err(|fault| format!("{name:.40} {fault}"))?;
    }
    Ok(())
}

/// Checks a value. `inside` is true in arrays, also for the members of objects in them.
fn check_value(value: &Json, level: usize, inside: bool) -> Result<(), String> {
    match value {
        Json::Null if !inside => Err("is null".into()),
        Json::Bool(_) | Json::Number(_) if inside => Err("holds a bare scalar in an array".into()),
        Json::Number(spelling) => match spelling.parse::<i32>() {
            Ok(number) if number.to_string() == *spelling => Ok(()),
            _ => Err(format!("is the number {spelling:.40}")),
        },
        Json::String(text) if text.len() > MAX_STRING => Err("is a long string".into()),
        Json::String(text) if text.contains('\0') => Err("holds U+0000".into()),
        Json::String(text) if !inside && cjson::takes_all(text) => {
            Err("is a string that Wazuh reads as a list".into())
        }
        Json::Array(items) => check_items(items, is_objects(value), level),
        Json::Object(members) => check_members(members, level, inside),
        _ => Ok(()),
    }
}

fn check_items(items: &[Json], are_objects: bool, level: usize) -> Result<(), String> {
    items.iter().try_for_each(|item| match item {
        Json::Array(_) => Err("holds an array within an array".into()),
        Json::Null | Json::Object(_) => check_value(item, level, true),
        _ if are_objects => Err("holds objects and text".into()),
        _ => check_value(item, level, true),
    })
}
