//! `request_response`.

use crate::running::{Example, Talk};

fn request(number: &str) -> Vec<u8> {
    [&(number.len() as u32).to_be_bytes()[..], number.as_bytes()].concat()
}

fn response(talk: &mut Talk) -> String {
    let length = u32::from_be_bytes(talk.read(4).try_into().expect("four bytes"));
    String::from_utf8(talk.read(length as usize)).expect("text")
}

#[test]
fn responses_come_in_the_order_of_the_requests_whichever_takes_longest() {
    let service = Example::start("request_response", &["127.0.0.1:0"]);
    let mut talk = service.connect();
    let numbers = ["200000", "10", "100", "no number", "1000"];
    let expected = [
        "17984 primes below 200000",
        "4 primes below 10",
        "25 primes below 100",
        "a number of at most 10000000, please",
        "168 primes below 1000",
    ];
    for _ in 0..2 {
        talk.write(&numbers.map(request).concat());
        let responses = numbers.map(|_| response(&mut talk));
        assert_eq!(responses, expected);
    }
    // Many more than jobs may be outstanding, and an end: all are answered all the same.
    talk.write(&request("10").repeat(500));
    talk.finish();
    let rest = talk.rest();
    let frame = [&17_u32.to_be_bytes()[..], b"4 primes below 10"].concat();
    assert!(rest == frame.repeat(500), "{} bytes and not {}", rest.len(), 500 * frame.len());
}

#[test]
fn a_request_that_takes_long_holds_nobody_else_up() {
    let service = Example::start("request_response", &["127.0.0.1:0"]);
    let (mut slow, mut quick) = (service.connect(), service.connect());
    slow.write(&request("10000000"));
    quick.write(&request("no number"));
    // On a machine with one worker it waits for that one; the I/O thread waits for nobody.
    assert_eq!(response(&mut quick), "a number of at most 10000000, please");
    assert_eq!(response(&mut slow), "664579 primes below 10000000");
}

#[test]
fn a_request_that_is_too_long_ends_its_connection() {
    let service = Example::start("request_response", &["127.0.0.1:0"]);
    let mut talk = service.connect();
    talk.write(&request(&"9".repeat(101)));
    let _ = talk.end();
    let mut other = service.connect();
    other.write(&request("3"));
    assert_eq!(response(&mut other), "1 primes below 3");
}
