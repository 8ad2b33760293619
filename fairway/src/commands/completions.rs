//! `fairway completions`.

use clap_complete::Shell;

#[derive(clap::Args)]
#[command(after_help = "Bash: fairway completions bash > /etc/bash_completion.d/fairway")]
pub(crate) struct Args {
    shell: Shell,
}

pub(crate) fn run(args: &Args, command: &mut clap::Command) {
    clap_complete::generate(args.shell, command, "fairway", &mut std::io::stdout());
}
