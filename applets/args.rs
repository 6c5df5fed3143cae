//! Arguments, as argh reads them, and what it lacks: `--option=value`, exit code 2, errors on one line.

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfoKind, FromArgs};

/// Why an applet doesn't run.
pub enum Early {
    /// The caller asked for help; this is the text.
    Help(String),
    /// The arguments make no sense.
    Usage(String),
}

/// Reads the arguments of an applet.
pub fn parse<T: FromArgs + ArgsInfo>(applet: &str, args: &[String]) -> Result<T, Early> {
    let args = normalise(&T::get_args_info(), args).map_err(Early::Usage)?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    T::from_args(&[applet], &args).map_err(|exit| {
        if exit.status.is_ok() {
            return Early::Help(exit.output);
        }
        let words: Vec<&str> = exit.output.split_whitespace().collect();
        Early::Usage(format!("{}; see {applet} --help", words.join(" ")))
    })
}

/// Splits `--option=value` if the applet has that option. Values of options, and what comes after `--`, stay as they are.
fn normalise(info: &CommandInfoWithArgs, args: &[String]) -> Result<Vec<String>, String> {
    let takes_value = |option: &str| {
        let is_short = |short: char| option.strip_prefix('-').is_some_and(|name| name.chars().eq([short]));
        let flag = info.flags.iter().find(|flag| flag.long == option || flag.short.is_some_and(is_short));
        flag.map(|flag| matches!(flag.kind, FlagInfoKind::Option { .. }))
    };
    let mut out = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            out.push(arg.clone());
            break;
        }
        let (option, value) = arg.split_once('=').map_or((arg.as_str(), None), |(option, value)| (option, Some(value)));
        match (takes_value(option), value) {
            (Some(true), Some(value)) => out.extend([option.to_owned(), value.to_owned()]),
            (Some(false), Some(_)) => return Err(format!("{option} takes no value")),
            (Some(true), None) => out.extend([arg].into_iter().chain(args.next()).cloned()),
            (Some(false), None) | (None, _) => out.push(arg.clone()),
        }
    }
    out.extend(args.cloned());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test's applet.
    #[derive(FromArgs, ArgsInfo, Debug, PartialEq)]
    #[argh(help_triggers("-h", "--help"))]
    struct Sample {
        /// a switch
        #[argh(switch)]
        json: bool,
        /// an option
        #[argh(option, short = 'c')]
        config: Option<String>,
        /// names
        #[argh(positional)]
        names: Vec<String>,
    }

    fn sample(args: &[&str]) -> Result<(bool, Option<String>, Vec<String>), String> {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        match parse::<Sample>("sample", &args) {
            Ok(Sample { json, config, names }) => Ok((json, config, names)),
            Err(Early::Help(_)) => Err("help".to_owned()),
            Err(Early::Usage(message)) => Err(message),
        }
    }

    #[allow(clippy::unnecessary_wraps, reason = "it is compared with what sample returns")]
    fn ok(json: bool, config: Option<&str>, names: &[&str]) -> Result<(bool, Option<String>, Vec<String>), String> {
        Ok((json, config.map(str::to_owned), names.iter().map(|n| (*n).to_owned()).collect()))
    }

    #[test]
    fn an_option_takes_its_value_after_a_space_or_an_equals_sign() {
        assert_eq!(sample(&["--config", "a", "b"]), ok(false, Some("a"), &["b"]));
        assert_eq!(sample(&["--config=a=c", "b", "--json"]), ok(true, Some("a=c"), &["b"]));
        assert_eq!(sample(&["--config="]), ok(false, Some(""), &[]));
        assert_eq!(sample(&["--config", "--json=1"]), ok(false, Some("--json=1"), &[]));
        assert_eq!(sample(&["--config", "--"]), ok(false, Some("--"), &[]));
        assert_eq!(sample(&["-c", "--json=1"]), ok(false, Some("--json=1"), &[]));
        assert_eq!(sample(&["-c=a=c", "b"]), ok(false, Some("a=c"), &["b"]));
    }

    #[test]
    fn a_switch_takes_none() {
        assert_eq!(sample(&["--json=1"]), Err("--json takes no value".to_owned()));
    }

    #[test]
    fn nothing_after_two_dashes_is_touched() {
        assert_eq!(sample(&["--", "--json=1", "--config=a", "-h"]), ok(false, None, &["--json=1", "--config=a", "-h"]));
    }

    #[test]
    fn help_is_asked_for_by_both_names_and_by_no_word() {
        assert_eq!(sample(&["-h"]), Err("help".to_owned()));
        assert_eq!(sample(&["--help"]), Err("help".to_owned()));
        assert_eq!(sample(&["help"]), ok(false, None, &["help"]));
    }

    #[test]
    fn an_error_is_one_line() {
        for args in [&["--nonsense"][..], &["--nonsense=1"], &["--config"], &["--config", "a", "--config", "b"]] {
            let message = sample(args).unwrap_err();
            assert!(!message.contains('\n') && message.ends_with("see sample --help"), "{message}");
        }
    }
}
