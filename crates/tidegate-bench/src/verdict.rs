//! What may be said of the ratios of a run, and whether it was quiet enough to say it.

/// The widest interval of a ratio, as part of its median, for a run to be worth quoting.
const WIDEST: f64 = 0.10;
/// The part of the rounds that must count.
const KEPT: f64 = 2.0 / 3.0;
/// How improbable it may be that the true median is outside of the interval.
const MISTAKEN: f64 = 0.05;

/// A median, and the interval that has the true one with 95 % probability, whatever the values are spread like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The middle value.
    pub median: f64,
    /// The interval begins here.
    pub low: f64,
    /// And ends here.
    pub high: f64,
}

impl Estimate {
    /// By order statistics: each value is as likely above the true median as below. `None` of fewer than six values, which allow none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Estimate> {
        values.sort_by(f64::total_cmp);
        let count = values.len();
        // The probability that at most `below` of the values are below the true median.
        let mut probability = 0.5_f64.powi(i32::try_from(count).ok()?);
        let (mut sum, mut below) = (probability, 0);
        if sum > MISTAKEN / 2.0 {
            return None;
        }
        loop {
            probability *= (count - below) as f64 / (below + 1) as f64;
            if sum + probability > MISTAKEN / 2.0 {
                break;
            }
            sum += probability;
            below += 1;
        }
        let middle = (values[(count - 1) / 2] + values[count / 2]) / 2.0;
        Some(Estimate { median: middle, low: values[below], high: values[count - 1 - below] })
    }
}

/// What a ratio is wanted to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// This or more.
    AtLeast(f64),
    /// To be known.
    Known,
}

/// One sentence on the ratios of one server to another in a run of so many rounds.
#[must_use]
pub fn judge(what: &str, ratios: Vec<f64>, rounds: usize, goal: Goal) -> String {
    let kept = ratios.len();
    let Some(Estimate { median, low, high }) = Estimate::of(ratios) else {
        return format!("not valid: {what}: {kept} of {rounds} count, and less than six say nothing");
    };
    let figure = format!("{what} = {median:.3} (95 %: {low:.3}-{high:.3})");
    if (kept as f64) < rounds as f64 * KEPT {
        return format!("not valid: {figure}: only {kept} of {rounds} count; the machine was busy");
    }
    if high - low > median * WIDEST {
        let widest = WIDEST * 100.0;
        return format!(
            "not valid: {figure}: the interval is wider than {widest:.0} %; more rounds, or a quieter machine"
        );
    }
    match goal {
        Goal::Known => format!("valid: {figure}"),
        Goal::AtLeast(least) if low >= least => format!("valid: {figure}: at least {least:.2}, certainly"),
        Goal::AtLeast(least) if median >= least => format!("valid: {figure}: at least {least:.2}, by the median"),
        Goal::AtLeast(least) if high >= least => format!("valid: {figure}: below {least:.2}, by the median"),
        Goal::AtLeast(least) => format!("valid: {figure}: below {least:.2}, certainly"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratios(count: u32) -> Vec<f64> {
        (1..=count).map(|number| 1.0 + f64::from(number) / 1_000.0).collect()
    }

    #[test]
    fn the_interval_is_that_of_order_statistics() {
        // Ranks from a table of the binomial distribution: 1 and 6 of 6, 3 and 10 of 12, 6 and 15 of 20.
        for (count, low, high) in [(6, 1, 6), (12, 3, 10), (20, 6, 15)] {
            let estimate = Estimate::of(ratios(count)).expect("enough values");
            let rank = |number: u32| 1.0 + f64::from(number) / 1_000.0;
            assert_eq!((estimate.low, estimate.high), (rank(low), rank(high)), "{count}");
        }
        assert_eq!(Estimate::of(ratios(5)), None);
        assert_eq!(Estimate::of(Vec::new()), None);
    }

    #[test]
    fn a_quiet_run_says_whether_the_goal_is_reached() {
        let told = |goal| judge("x/y", ratios(12), 12, Goal::AtLeast(goal));
        assert!(told(1.001).ends_with("at least 1.00, certainly"), "{}", told(1.001));
        assert!(told(1.005).ends_with("by the median"), "{}", told(1.005));
        assert!(told(1.05).ends_with("below 1.05, certainly"), "{}", told(1.05));
        assert!(judge("x/y", ratios(12), 12, Goal::Known).starts_with("valid: x/y = 1.006"));
    }

    #[test]
    fn a_noisy_run_is_not_called_valid() {
        let noisy = (0..12).map(|number| 1.0 + f64::from(number) / 10.0).collect();
        assert!(judge("x/y", noisy, 12, Goal::AtLeast(0.5)).starts_with("not valid"));
        assert!(judge("x/y", ratios(7), 12, Goal::AtLeast(0.5)).starts_with("not valid"));
        assert!(judge("x/y", ratios(5), 5, Goal::AtLeast(0.5)).starts_with("not valid"));
    }
}
