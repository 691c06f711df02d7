//! What filters take is in the ceiling, and is all that they take.

use tidegate::filter::Reserve;
use tidegate::{Limits, Listener, Server};

use crate::common::{Echo, Making, Mapping};

fn ceiling(listeners: &[&[Reserve]], later: Option<Reserve>) -> (usize, Vec<&'static str>) {
    let limits = Limits { max_connections: 1000, ..Limits::default() };
    let mut server = Server::builder().limits(limits).memory(256 << 20);
    for reserves in listeners {
        let mut listener = Listener::tcp(([127, 0, 0, 1], 0).into());
        for &reserve in *reserves {
            listener = listener.filter(Making(reserve, || Box::new(Mapping(|byte| vec![byte])) as _));
        }
        if let Some(reserve) = later {
            listener = listener.filter_later(reserve);
        }
        server = server.listen(listener, |_| Echo);
    }
    let bound = server.bind().expect("it fits");
    assert_eq!(bound.ceiling().total(), 256 << 20, "what filters take is not send memory's");
    (bound.ceiling().filters_bytes, bound.ceiling().terms().iter().map(|(name, _)| *name).collect())
}

#[test]
fn the_reserves_of_filters_are_a_term_of_the_ceiling_and_no_filter_is_no_term() {
    let large = Reserve { state_bytes: 10_000, write_bytes: 17_000 };
    let small = Reserve { state_bytes: 100, write_bytes: 10 };
    let (nothing, terms) = ceiling(&[&[]], None);
    assert_eq!((nothing, terms), (0, vec!["base", "connections", "receive", "send"]));
    let (one, terms) = ceiling(&[&[large]], None);
    assert_eq!(terms.last(), Some(&"filters"));
    assert!((27_000_000..29_000_000).contains(&one), "{one}");
    let (two, _) = ceiling(&[&[large, large]], None);
    assert!((54_000_000..57_000_000).contains(&two), "filters of one connection add up: {two}");
    // A connection has the filters of one listener.
    assert_eq!(ceiling(&[&[large], &[small], &[]], None).0, one);
    let (later, _) = ceiling(&[&[small]], Some(large));
    assert!((27_100_000..30_000_000).contains(&later), "{later}");
}
