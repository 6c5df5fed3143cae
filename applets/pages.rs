//! Manual pages and shell completions, made from argh's description of the arguments by clap's generators.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfoKind, Optionality};
use clap::builder::ValueParser;
use clap::{Arg, ArgAction, Command, ValueHint};
use clap_complete::aot::{Bash, Fish, Zsh, generate_to};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::inside::{act, init, run_as, status};
use crate::{APPLETS, Applet, apply, check, out};

/// How an applet is described: by argh, and by the text that its `--help` adds.
type Described = (fn() -> CommandInfoWithArgs, &'static str);

fn described(name: &str) -> Option<Described> {
    Some(match name {
        "init" => (init::Init::get_args_info, ""),
        "apply-allowlist" => (apply::Allowlist::get_args_info, apply::PROMISE),
        "apply-egress" => (apply::Egress::get_args_info, apply::PROMISE),
        "apply" => (apply::General::get_args_info, apply::PROMISE),
        "status" => (status::Options::get_args_info, status::CODES),
        "restart" => (act::Restart::get_args_info, act::CODES),
        "stop" => (act::Stop::get_args_info, act::CODES),
        "start" => (act::Start::get_args_info, act::CODES),
        "signal" => (act::Send::get_args_info, act::CODES),
        "run-as" => (run_as::Options::get_args_info, run_as::CODES),
        "check" => (check::Options::get_args_info, check::CODES),
        _ => return None,
    })
}

/// Writes them: `man/` holds `sidecar.1` and a page for each applet, `bash/`, `zsh/` and `fish/` the completions.
pub fn run(directory: &Path) -> ExitCode {
    match write(directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            out::error(&format!("sidecar: cannot write the pages in {}: {e}", directory.display()));
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    let at = |name| {
        let path = directory.join(name);
        fs::create_dir_all(&path).map(|()| path)
    };
    let (man, bash, zsh, fish) = (at("man")?, at("bash")?, at("zsh")?, at("fish")?);
    let mut sidecar = bare("sidecar", env!("CARGO_PKG_DESCRIPTION"))
        .arg(Arg::new("list").long("list").action(ArgAction::SetTrue).help("list the applets' names"))
        .arg(
            Arg::new("install")
                .long("install")
                .value_name("DIR")
                .value_hint(ValueHint::DirPath)
                .help("make a link in DIR for each applet; replaces older sidecar links, but no other file"),
        )
        .arg(
            Arg::new("explain")
                .long("explain")
                .value_name("WORD")
                .help("say what an outcome or a daemon's state means, and what to do"),
        )
        .arg(Arg::new("version").long("version").action(ArgAction::SetTrue).help("version and target"));
    for applet in APPLETS {
        let Some((info, notes)) = described(applet.name) else {
            return Err(io::Error::other(format!("{} is not described", applet.name)));
        };
        let command = command(applet, &info());
        // Not `init.1`, which is systemd's.
        let page = if applet.name.starts_with("apply-") { applet.name } else { &format!("sidecar-{}", applet.name) };
        fs::write(man.join(format!("{page}.1")), manual(&command, page, notes)?)?;
        // The links that people have on their PATH.
        if applet.name.starts_with("apply-") {
            let mut alone = command.clone();
            generate_to(Bash, &mut alone, applet.name, &bash)?;
            generate_to(Zsh, &mut alone, applet.name, &zsh)?;
            generate_to(Fish, &mut alone, applet.name, &fish)?;
        }
        sidecar = sidecar.subcommand(command);
    }
    generate_to(Bash, &mut sidecar, "sidecar", &bash)?;
    generate_to(Zsh, &mut sidecar, "sidecar", &zsh)?;
    generate_to(Fish, &mut sidecar, "sidecar", &fish)?;
    fs::write(man.join("sidecar.1"), manual(&overview(sidecar), "sidecar", "")?)
}

/// The main page without clap's list of applets: their pages have other names, so [`manual`] writes the list.
fn overview(sidecar: Command) -> Command {
    sidecar.mut_subcommands(|applet| applet.hide(true)).override_usage("sidecar APPLET [ARGUMENT]...")
}

/// A command without the options that clap adds by itself.
fn bare(name: &'static str, about: &'static str) -> Command {
    let help = Arg::new("help").short('h').long("help").action(ArgAction::Help).help("print help");
    let command = Command::new(name).about(about).arg(help);
    command.disable_help_flag(true).disable_help_subcommand(true).disable_version_flag(true)
}

fn command(applet: &'static Applet, info: &CommandInfoWithArgs) -> Command {
    let mut command = bare(applet.name, applet.about).long_about(info.description.to_owned());
    for flag in info.flags {
        let long = flag.long.trim_start_matches('-');
        if long == "help" || flag.hidden {
            continue;
        }
        let mut arg = Arg::new(long.to_owned()).long(long.to_owned()).help(flag.description.to_owned());
        if let Some(short) = flag.short {
            arg = arg.short(short);
        }
        command = command.arg(match flag.kind {
            FlagInfoKind::Switch => arg.action(ArgAction::SetTrue),
            FlagInfoKind::Option { arg_name } => {
                let required = matches!(flag.optionality, Optionality::Required);
                arg.value_name(arg_name.to_uppercase()).value_hint(hint(arg_name)).required(required)
            }
        });
    }
    for positional in info.positionals {
        let arg = Arg::new(positional.name.to_owned()).value_name(positional.name.to_owned());
        let arg = arg.help(positional.description.to_owned()).value_hint(hint(positional.name));
        command = command.arg(match positional.optionality {
            Optionality::Required => arg.required(true),
            Optionality::Optional => arg,
            Optionality::Repeating | Optionality::Greedy => {
                // None is a usage error of ours, whatever argh says.
                arg.required(true).num_args(1..).value_parser(ValueParser::string())
            }
        });
    }
    command
}

fn hint(name: &str) -> ValueHint {
    match name.to_ascii_lowercase().as_str() {
        "file" | "config" => ValueHint::FilePath,
        _ => ValueHint::Other,
    }
}

/// The page: clap's sections, then those that the notes make.
fn manual(command: &Command, page: &str, notes: &str) -> io::Result<Vec<u8>> {
    let name = command.get_name().to_owned();
    let shown = if page == name { name.clone() } else { format!("sidecar {name}") };
    let man = Man::new(command.clone().display_name(page.to_owned()).bin_name(shown))
        .title(page.to_uppercase())
        .manual("sidecar");
    let man = man.source(format!("sidecar {}", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    let mut more = Roff::new();
    for block in notes.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
        section(&mut more, block);
    }
    if page == "sidecar" {
        more.control("SH", ["APPLETS"]);
        for applet in APPLETS {
            more.control("TP", []).text([bold(applet.name)]).text([roman(applet.about)]);
        }
    } else {
        more.control("SH", ["SEE ALSO"]).text([bold("sidecar"), roman("(1)")]);
    }
    more.to_writer(&mut text)?;
    Ok(text)
}

/// A paragraph of the text that `--help` adds; codes are a list.
fn section(more: &mut Roff, block: &str) {
    let mut lines = block.lines();
    if block.starts_with("Exit codes") {
        more.control("SH", ["EXIT STATUS"]);
        let heading = lines.next().unwrap_or_default();
        if let Some((_, qualified)) = heading.trim_end_matches(':').split_once(" (") {
            more.text([roman(qualified.trim_end_matches(')'))]);
        }
        for line in lines {
            let (code, meaning) = line.trim_start().split_once("  ").unwrap_or((line, ""));
            more.control("TP", []).text([bold(code)]).text([roman(meaning.trim_start())]);
        }
    } else if let Some(variables) = block.strip_prefix("Environment: ") {
        more.control("SH", ["ENVIRONMENT"]).text([roman(variables.replace('\n', " "))]);
    } else {
        more.control("SH", ["NOTES"]);
        for line in lines {
            more.text([roman(line)]);
        }
    }
}
