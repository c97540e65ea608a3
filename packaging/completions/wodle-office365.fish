# fish completion for wodle-office365(8)

set -l commands poll check status backfill reset wodle
set -l types Audit.AzureActiveDirectory Audit.Exchange Audit.SharePoint Audit.General DLP.All
set -l ages 7d 3d 1d 12h 1h 30m

complete -c wodle-office365 -f
complete -c wodle-office365 -n "not __fish_seen_subcommand_from $commands" -a poll -d 'One poll cycle (the default)'
complete -c wodle-office365 -n "not __fish_seen_subcommand_from $commands" -a check -d 'Try everything that a poll needs'
complete -c wodle-office365 -n "not __fish_seen_subcommand_from $commands" -a status -d 'How every stream stands'
complete -c wodle-office365 -n "not __fish_seen_subcommand_from $commands" -a backfill -d 'Bring a past window'
complete -c wodle-office365 -n "not __fish_seen_subcommand_from $commands" -a reset -d "Move a stream's position"
complete -c wodle-office365 -n "not __fish_seen_subcommand_from $commands" -a wodle -d 'Print the block for ossec.conf'

complete -c wodle-office365 -l home -x -a '(__fish_complete_directories)' -d "Wazuh's folder"
complete -c wodle-office365 -l config -r -F -d Configuration
complete -c wodle-office365 -l log-level -x -a 'error warning info debug' -d 'Instead of log_level'
complete -c wodle-office365 -s h -l help -d 'Show a summary'
complete -c wodle-office365 -s V -l version -d 'Show the version'

complete -c wodle-office365 -n "not __fish_seen_subcommand_from check status backfill reset wodle" -l dry-run -d 'Save nothing'
complete -c wodle-office365 -n '__fish_seen_subcommand_from check status' -l json -d 'For machines'
complete -c wodle-office365 -n '__fish_seen_subcommand_from check' -l start -d 'Start missing subscriptions'
complete -c wodle-office365 -n '__fish_seen_subcommand_from check backfill reset' -l tenant -x -d 'Only this tenant'
complete -c wodle-office365 -n '__fish_seen_subcommand_from backfill reset' -l content-type -x -a "$types" -d 'Only this content type'
complete -c wodle-office365 -n '__fish_seen_subcommand_from backfill' -l from -x -a "$ages" -d 'Since when'
complete -c wodle-office365 -n '__fish_seen_subcommand_from backfill reset' -l to -x -a "$ages" -d 'Until when'
complete -c wodle-office365 -n '__fish_seen_subcommand_from backfill' -l stdout -d 'Write it here and now'
complete -c wodle-office365 -n '__fish_seen_subcommand_from wodle' -l verify -d "With the program's checksum"
complete -c wodle-office365 -n '__fish_seen_subcommand_from wodle' -l agent -d 'For agent.conf'
