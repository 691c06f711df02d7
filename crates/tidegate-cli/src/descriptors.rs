//! How many descriptors the program may open, and so how many connections it may promise.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors that are not connections: the standard streams, listeners, rings, wake-ups, and the one connection that
/// is accepted to find out that there is no room for it. Generous, so that the promise holds.
pub(crate) const RESERVED: u64 = 64;

/// Connections when neither the user nor the machine says how many.
pub(crate) const CONNECTIONS_DEFAULT: u32 = 10_000;

/// Raises the soft limit to the hard one and returns that; `u64::MAX` when there is none.
///
/// If it can't be raised, returns what it stays at.
pub(crate) fn raise_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if soft >= hard {
        return hard;
    }
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// How many connections to allow: what was `asked` for, or the default, as far as `descriptors` carry them.
///
/// # Errors
/// A text with the numbers when they don't.
pub(crate) fn connections(asked: Option<u32>, descriptors: u64) -> Result<u32, String> {
    let carried = u32::try_from(descriptors.saturating_sub(RESERVED)).unwrap_or(u32::MAX);
    if carried == 0 {
        return Err(format!(
            "the hard limit of descriptors is {descriptors}: a server needs more than {RESERVED}; raise the limit (ulimit \
             -Hn, or nofile in the service manager)"
        ));
    }
    match asked {
        None => Ok(CONNECTIONS_DEFAULT.min(carried)),
        Some(asked) if asked <= carried => Ok(asked),
        Some(asked) => Err(format!(
            "--max-connections {asked} needs {} descriptors ({RESERVED} of them for other things), but the hard limit is \
             {descriptors}: raise it (ulimit -n {}, or nofile in the service manager), or allow at most {carried} connections",
            u64::from(asked) + RESERVED,
            u64::from(asked) + RESERVED,
        )),
    }
}

/// Whether `descriptors` carry `connections` that this program makes.
///
/// # Errors
/// A text with the numbers when they don't.
pub(crate) fn check_for(connections: u32, descriptors: u64) -> Result<(), String> {
    let wanted = u64::from(connections) + RESERVED;
    if wanted <= descriptors {
        return Ok(());
    }
    Err(format!(
        "{connections} connections need {wanted} descriptors ({RESERVED} of them for other things), but the hard limit is \
         {descriptors}: raise it (ulimit -n {wanted}), or make at most {} connections",
        descriptors.saturating_sub(RESERVED)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_10_000_or_what_the_descriptors_carry() {
        assert_eq!(connections(None, u64::MAX), Ok(10_000));
        assert_eq!(connections(None, 20_000), Ok(10_000));
        assert_eq!(connections(None, 10_064), Ok(10_000));
        assert_eq!(connections(None, 10_063), Ok(9_999));
        assert_eq!(connections(None, 65), Ok(1));
    }

    #[test]
    fn what_the_descriptors_carry_is_granted_and_one_more_is_not() {
        assert_eq!(connections(Some(960), 1024), Ok(960));
        let text = connections(Some(961), 1024).expect_err("too many");
        for part in ["961", "1025", "1024", "ulimit -n", "at most 960"] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }

    #[test]
    fn connections_to_be_made_are_checked_against_the_limit() {
        assert_eq!(check_for(960, 1024), Ok(()));
        let text = check_for(961, 1024).expect_err("too many");
        for part in ["961", "1025", "1024", "ulimit -n", "at most 960"] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }

    #[test]
    fn a_limit_below_the_reserve_is_refused() {
        assert!(connections(None, 64).is_err());
        assert!(connections(Some(1), 3).is_err());
    }
}
