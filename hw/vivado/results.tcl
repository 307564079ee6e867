# What a routed design must meet, and the manifest beside its bitstream (bitstreams/manifest.py reads it).

proc run_statistic {run name} {
    set value [get_property STATS.$name $run]
    if {![string is double -strict $value]} {
        error "Vivado gives no $name of the implementation, but '$value'"
    }
    return $value
}

# Return the worst slack in ns of all setup and hold paths; an error if it or that of the pulse widths is negative.
proc check_timing_of {run} {
    foreach {name meaning} {WNS "worst setup slack" WHS "worst hold slack" TPWS "total pulse width slack"} {
        set slack [run_statistic $run $name]
        if {$slack < 0} {
            error "timing is not met: $meaning is $slack ns; see reports/timing.rpt, and try a slower --clock-mhz"
        }
    }
    return [expr {min([run_statistic $run WNS], [run_statistic $run WHS])}]
}

# Return the used number of each resource of the manifest, from the table of report_utilization.
proc read_utilisation {report} {
    set used {}
    foreach {name row} {dsp "DSPs" lut "CLB LUTs" ff "CLB Registers" bram36 "Block RAM Tile"} {
        if {![regexp -line "^\\|\\s*$row\\*?\\s*\\|\\s*(\[0-9.\]+)\\s*\\|" $report match number]} {
            error "report_utilization has no row '$row'"
        }
        lappend used $name $number
    }
    return $used
}

proc json_object {members separator} {
    set texts {}
    foreach {name value} $members {
        lappend texts "\"$name\": $value"
    }
    return "{[join $texts $separator]}"
}

# Write the manifest: what was known before the build, as JSON already, and what the build has shown.
proc write_manifest {path clock_mhz worst_slack_ns utilisation} {
    global settings
    set members [list {*}$settings(manifest) \
        tool "\"Vivado [version -short]\"" \
        clock_mhz $clock_mhz \
        worst_slack_ns $worst_slack_ns \
        utilisation [json_object $utilisation ", "]]
    set file [open $path w]
    puts $file [json_object $members ",\n"]
    close $file
}
