//! `chat`.

use crate::running::{Example, Talk};

/// Somebody in the room, who has seen that it is there.
fn enter(chat: &Example, name: &str) -> Talk {
    let mut talk = chat.connect();
    assert_eq!(talk.line().as_deref(), Some("* your name?"));
    talk.write(format!("{name}\n").as_bytes());
    assert_eq!(talk.line(), Some(format!("* {name} is here")));
    talk
}

#[test]
fn what_one_says_all_hear_and_all_see_who_comes_and_goes() {
    let chat = Example::start("chat", &["127.0.0.1:0"]);
    let mut ann = enter(&chat, "ann");
    let mut bob = enter(&chat, "bob");
    assert_eq!(ann.line().as_deref(), Some("* bob is here"));
    bob.write(b"the tide is in\nis it?\n");
    for talk in [&mut ann, &mut bob] {
        assert_eq!(talk.line().as_deref(), Some("bob: the tide is in"));
        assert_eq!(talk.line().as_deref(), Some("bob: is it?"));
    }
    bob.write(b"/quit\n");
    assert_eq!(bob.line(), None);
    drop(bob);
    assert_eq!(ann.line().as_deref(), Some("* bob has left"));
    let mut stranger = chat.connect();
    stranger.write(&[&[b'x'; 40][..], b"\ncy\n"].concat());
    assert_eq!(stranger.line().as_deref(), Some("* your name?"));
    assert_eq!(stranger.line().as_deref(), Some("* a name has 1 to 32 bytes"));
    assert_eq!(ann.line().as_deref(), Some("* cy is here"), "the next line is the next try");
}

#[test]
fn a_member_that_does_not_read_loses_the_oldest_lines_and_the_others_lose_none() {
    const ROUNDS: u32 = 400;
    const LINES: u32 = 50;
    let chat = Example::start("chat", &["127.0.0.1:0"]);
    let mut stopped = enter(&chat, "stopped");
    let (mut ann, mut bob) = (enter(&chat, "ann"), enter(&chat, "bob"));
    assert_eq!(ann.line().as_deref(), Some("* bob is here"));
    // Eight megabytes, no faster than the others hear them: more than the system's buffers take for one who doesn't read.
    let filling = "~".repeat(380);
    for round in 0..ROUNDS {
        let lines = |number| format!("{} {filling}", round * LINES + number);
        let said: String = (0..LINES).map(|number| lines(number) + "\n").collect();
        ann.write(said.as_bytes());
        for talk in [&mut ann, &mut bob] {
            for number in 0..LINES {
                assert_eq!(talk.line(), Some(format!("ann: {}", lines(number))));
            }
        }
    }
    let mut numbers = Vec::new();
    while numbers.last() != Some(&(ROUNDS * LINES - 1)) {
        let line = stopped.line().expect("it is still in the room");
        let number = line.strip_prefix("ann: ").and_then(|line| line.split(' ').next()?.parse::<u32>().ok());
        numbers.extend(number);
    }
    assert!(numbers.is_sorted_by(|one, next| one < next), "each once, in order");
    assert!(numbers.len() < (ROUNDS * LINES) as usize, "nothing was dropped: {} lines waited somewhere", numbers.len());
}
