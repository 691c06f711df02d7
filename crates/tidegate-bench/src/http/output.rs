//! What `wrk` and `h2load` print. Any error that they counted is an error here.

use std::io;
use std::time::Duration;

/// What `h2load` says.
#[derive(Debug, PartialEq)]
pub struct Answered {
    /// Requests, all answered with a status of the 2xx class.
    pub requests: u64,
    /// From the first to the last.
    pub elapsed: Duration,
    /// Bytes of all bodies.
    pub body_bytes: u64,
}

/// Reads the report of `wrk`: how many requests in which time.
///
/// # Errors
///
/// When it counted any error, or is not such a report.
pub fn wrk(text: &str) -> io::Result<(u64, Duration)> {
    let complaint = text.lines().find(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
    if let Some(complaint) = complaint {
        return Err(io::Error::other(format!("wrk: {}", complaint.trim())));
    }
    let read = || {
        let (requests, rest) = text.lines().find_map(|line| line.trim().split_once(" requests in "))?;
        let (elapsed, _) = rest.split_once(',')?;
        Some((requests.parse().ok()?, duration(elapsed)?))
    };
    match read() {
        Some((0, _)) => Err(io::Error::other("wrk: not one request was answered")),
        Some(figures) => Ok(figures),
        None => Err(unreadable("wrk", text)),
    }
}

/// Reads the report of `h2load`.
///
/// # Errors
///
/// When it counted any error, or is not such a report.
pub fn h2load(text: &str) -> io::Result<Answered> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let read = || {
        let requests = line("requests: ")?;
        let statuses = line("status codes: ")?;
        let counts = ["total", "succeeded", "failed", "errored", "timeout"].map(|name| count(requests, name));
        let [Some(total), Some(succeeded), Some(failed), Some(errored), Some(timeout)] = counts else { return None };
        let good = count(statuses, "2xx")?;
        let sound = succeeded == total && good == total && failed + errored + timeout == 0 && total > 0;
        let elapsed = duration(line("finished in ")?.split(',').next()?)?;
        let (_, body) = line("traffic: ")?.rsplit_once('(')?;
        let body_bytes = body.split(')').next()?.parse().ok()?;
        Some((sound, Answered { requests: total, elapsed, body_bytes }))
    };
    match read() {
        Some((true, answered)) => Ok(answered),
        Some((false, _)) => {
            let complaint = [line("requests: "), line("status codes: ")].map(Option::unwrap_or_default).join("; ");
            Err(io::Error::other(format!("h2load: {complaint}")))
        }
        None => Err(unreadable("h2load", text)),
    }
}

/// The number before `name` in a list that commas part.
fn count(list: &str, name: &str) -> Option<u64> {
    list.split(',').find_map(|item| item.trim().strip_suffix(name)?.trim().parse().ok())
}

/// A time with its unit, as both programs write it.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (number, unit) = units.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))?;
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

fn unreadable(program: &str, text: &str) -> io::Error {
    io::Error::other(format!("not a report of {program}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 2s test @ http://127.0.0.1:1/\n  1 threads and 50 connections\n  \
                       300100 requests in 2.10s, 37.00MB read\nRequests/sec: 142904.76\n";
    const H2LOAD: &str = "progress: 100% done\n\nfinished in 706.27ms, 2831.79 req/s, 108.12KB/s\n\
                          requests: 2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout\n\
                          status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx\n\
                          traffic: 76.36KB (78192) total, 15.73KB (16108) headers (space savings 90.06%), 25.39KB (26000) data\n";

    #[test]
    fn good_reports_are_read() -> io::Result<()> {
        assert_eq!(wrk(WRK)?, (300_100, Duration::from_millis(2_100)));
        let expected = Answered { requests: 2_000, elapsed: Duration::from_micros(706_270), body_bytes: 26_000 };
        assert_eq!(h2load(H2LOAD)?, expected);
        Ok(())
    }

    #[test]
    fn every_kind_of_error_fails_the_run() {
        for complaint in ["Socket errors: connect 0, read 1, write 0, timeout 0", "Non-2xx or 3xx responses: 179"] {
            assert!(wrk(&format!("{WRK}  {complaint}\n")).is_err(), "{complaint}");
        }
        let spoilt = [
            ("0 failed", "1 failed"),
            ("0 errored", "3 errored"),
            ("0 timeout", "1 timeout"),
            ("2000 succeeded", "1999 succeeded"),
            ("2000 2xx, 0 3xx, 0 4xx, 0 5xx", "1999 2xx, 0 3xx, 0 4xx, 1 5xx"),
        ];
        for (good, bad) in spoilt {
            assert!(h2load(&H2LOAD.replace(good, bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        assert!(wrk("unable to connect").is_err());
        assert!(wrk("  0 requests in 2.10s, 0B read\n").is_err());
        assert!(h2load("").is_err());
    }
}
