# bash completion for wodle-office365(8)

_wodle_office365() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev= command= word options
    ((COMP_CWORD > 0)) && prev=${COMP_WORDS[COMP_CWORD - 1]}
    COMPREPLY=()
    # bash takes the = of --option=value for a word of its own.
    if [[ $cur == '=' ]]; then
        cur=
    elif [[ $prev == '=' ]] && ((COMP_CWORD > 1)); then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case $prev in
        --home)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -d -- "$cur")
            return
            ;;
        --config)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        --log-level)
            mapfile -t COMPREPLY < <(compgen -W 'error warning info debug' -- "$cur")
            return
            ;;
        --content-type)
            mapfile -t COMPREPLY < <(compgen -W 'Audit.AzureActiveDirectory Audit.Exchange
                Audit.SharePoint Audit.General DLP.All' -- "$cur")
            return
            ;;
        --from | --to)
            mapfile -t COMPREPLY < <(compgen -W '7d 3d 1d 12h 1h 30m' -- "$cur")
            return
            ;;
        --tenant) return ;;
    esac
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
            poll | check | status | backfill | reset | wodle) command=$word ;;
        esac
    done
    options='--home --config --log-level --help --version'
    case $command in
        '') options="poll check status backfill reset wodle $options --dry-run" ;;
        poll) options="$options --dry-run" ;;
        check) options="$options --tenant --start --json" ;;
        status) options="$options --json" ;;
        backfill) options="$options --from --to --tenant --content-type --stdout" ;;
        reset) options="$options --tenant --content-type --to" ;;
        wodle) options="$options --verify --agent" ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
}

complete -F _wodle_office365 wodle-office365
