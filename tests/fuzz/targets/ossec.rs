//! Wazuh's own configuration: whatever stands in it, what is found in it is in it, and an argument that is
//! written into a command comes out of it as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wodle_office365::ossec::{internal_option, parse, quote, split};

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let ossec = parse(input);
    assert!(ossec.wodles.len() <= text.matches("<wodle").count());
    assert!(ossec.native_tenants.len() <= text.matches("<tenant_id").count());
    let lines = text.lines().count();
    for wodle in &ossec.wodles {
        assert!(wodle.line >= 1 && wodle.line as usize <= lines);
        let _ = (wodle.timeout_seconds(), wodle.interval_seconds());
        let longest = wodle.arguments().iter().map(String::len).sum::<usize>();
        assert!(longest <= wodle.command.len());
    }
    let arguments: Vec<_> = text.split('\u{0}').take(8).collect();
    let quoted: Option<Vec<_>> = arguments.iter().map(|argument| quote(argument)).collect();
    if let Some(quoted) = quoted {
        assert_eq!(split(&quoted.join(" ")), arguments);
    }
    let _ = internal_option(&[input.to_vec()], "wazuh_modules.max_eps");
});
