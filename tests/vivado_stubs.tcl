# The Vivado commands that hw/vivado uses, as far as a check of the scripts needs them: no more options than Vivado
# documents (Vivado Tcl Command Reference, UG835; ipx commands: Creating and Packaging Custom IP, UG1118), and a model of
# the packaged IP (vivado_ip.tcl), the block design (vivado_block.tcl) and the runs. An unknown command, option, property
# or object is an error.
#
# Objects are strings "kind:path". The caller sets vivado::ports, a list of {name direction} of the core's top module.

namespace eval vivado {
    variable ports {}
    variable release 2022.1
    variable board_parts xilinx.com:zcu102:part0:3.4
    # Of the routed design; "" means that Vivado does not know.
    array set statistics {WNS 0.125 WHS 0.015 TPWS 0.000}
    variable progress 100%
    array set objects {}
    array set properties {}
    # Properties that may be set, by kind of object; of a cell, those that it has.
    array set settable {
        project {board_part ip_repo_paths}
        fileset {top}
        file {synth_checkpoint_mode}
    }
    variable project {} project_folder {} project_part {} files {} steps {}
}

# Define a command: its options (those with = have a value), and the least and most of its other arguments. The body
# sees the given options as the dictionary `options`, without the =, and the other arguments as the list `arguments`.
proc vivado::command {name options least most body} {
    proc ::$name {args} "lassign \[vivado::parse [list $name $options $least $most] \$args\] options arguments\n$body"
}

proc vivado::parse {name known least most words} {
    set options {}
    set arguments {}
    while {[llength $words] > 0} {
        set words [lassign $words word]
        if {[string index $word 0] ne "-"} {
            lappend arguments $word
        } elseif {$word in $known} {
            dict set options $word 1
        } elseif {"$word=" in $known} {
            if {[llength $words] == 0} {
                error "$name: $word needs a value"
            }
            set words [lassign $words value]
            dict set options $word $value
        } else {
            error "$name has no option $word"
        }
    }
    if {[llength $arguments] < $least || [llength $arguments] > $most} {
        error "$name takes $least to $most arguments, not [llength $arguments]: $arguments"
    }
    return [list $options $arguments]
}

proc vivado::add {kind path} {
    if {[info exists vivado::objects($kind:$path)]} {
        error "$kind $path exists already"
    }
    set vivado::objects($kind:$path) 1
    return $kind:$path
}

# Fail unless the object exists and is of one of the kinds; return its path.
proc vivado::path {object args} {
    if {![info exists vivado::objects($object)]} {
        error "no such object: '$object'"
    }
    set kind [vivado::kind $object]
    if {$kind ni $args} {
        error "$object is not of $args"
    }
    return [string range $object [string length $kind:] end]
}

proc vivado::kind {object} {
    return [lindex [split $object :] 0]
}

# The objects of a kind that match a pattern, in order.
proc vivado::find {kind pattern} {
    return [lsort -dictionary [array names vivado::objects $kind:$pattern]]
}

proc vivado::property {object name} {
    return $vivado::properties($object,$name)
}

proc vivado::check_file {path} {
    if {![file exists $path]} {
        error "no such file: $path"
    }
}

proc vivado::write {path text} {
    file mkdir [file dirname $path]
    set file [open $path w]
    puts -nonewline $file $text
    close $file
}

vivado::command set_property {-dict=} 1 3 {
    if {[dict exists $options -dict]} {
        set pairs [dict get $options -dict]
        set target $arguments
    } else {
        if {[llength $arguments] != 3} {
            error "set_property takes name, value, objects"
        }
        set pairs [lrange $arguments 0 1]
        set target [lindex $arguments 2]
    }
    if {[llength $target] == 0 || [llength $pairs] % 2} {
        error "set_property: no object, or no value"
    }
    foreach object $target {
        set kind [vivado::kind $object]
        vivado::path $object $kind
        foreach {name value} $pairs {
            set is_known [expr {$kind eq "bd_cell" ? [info exists vivado::properties($object,$name)]
                : $name in $vivado::settable($kind)}]
            if {!$is_known} {
                error "$object has no property $name that can be set"
            }
            set vivado::properties($object,$name) $value
        }
    }
}

vivado::command get_property {} 2 2 {
    lassign $arguments name object
    set kind [vivado::kind $object]
    vivado::path $object $kind
    if {$name eq "NAME"} {
        return [lindex [split $object :/] end]
    }
    if {![info exists vivado::properties($object,$name)]} {
        error "$object has no property $name"
    }
    return $vivado::properties($object,$name)
}

vivado::command version {-short} 0 0 {
    return $vivado::release
}

vivado::command create_project {-force -part=} 1 2 {
    if {$vivado::project ne ""} {
        error "project $vivado::project is open"
    }
    lassign $arguments vivado::project vivado::project_folder
    if {[dict get $options -part] ne "xczu9eg-ffvb1156-2-e"} {
        error "no such part"
    }
    if {[dict exists $options -force]} {
        file delete -force $vivado::project_folder
    }
    file mkdir $vivado::project_folder
    set vivado::files {}
    vivado::add project $vivado::project
    vivado::add fileset $vivado::project/sources_1
}

vivado::command close_project {} 0 0 {
    vivado::add closed $vivado::project
    set vivado::project ""
}

vivado::command current_project {} 0 0 {
    return project:$vivado::project
}

vivado::command current_fileset {} 0 0 {
    return fileset:$vivado::project/sources_1
}

vivado::command add_files {-norecurse} 1 1 {
    foreach file [lindex $arguments 0] {
        vivado::check_file $file
        lappend vivado::files $file
    }
}

vivado::command update_compile_order {-fileset=} 0 0 {
    if {[dict get $options -fileset] ne "sources_1"} {
        error "no such fileset"
    }
}

vivado::command get_board_parts {-quiet} 1 1 {
    return [lsearch -all -inline $vivado::board_parts [lindex $arguments 0]]
}

vivado::command get_files {} 1 1 {
    set found [vivado::find file */[lindex $arguments 0]]
    if {[llength $found] == 0} {
        error "no such file in the project: $arguments"
    }
    return $found
}

vivado::command launch_runs {-to_step=} 1 1 {
    set run [lindex $arguments 0]
    if {$run ni {synth_1 impl_1}} {
        error "no such run: $run"
    }
    if {$run eq "impl_1" && "synth_1" ni $vivado::steps} {
        error "impl_1 needs synth_1"
    }
    if {[vivado::property [current_fileset] top] ne "${vivado::project}_wrapper"} {
        error "the wrapper of the block design is not the top"
    }
    if {[dict exists $options -to_step]} {
        if {[dict get $options -to_step] ne "write_bitstream" || $run ne "impl_1"} {
            error "no such step"
        }
        lappend vivado::steps write_bitstream
        vivado::write [vivado::property run:impl_1 DIRECTORY]/${vivado::project}_wrapper.bit bits
    } else {
        vivado::add run $run
        lappend vivado::steps $run
        set vivado::properties(run:$run,DIRECTORY) $vivado::project_folder/$vivado::project.runs/$run
    }
    set vivado::properties(run:$run,PROGRESS) $vivado::progress
    set vivado::properties(run:$run,STATUS) "$run: $vivado::progress"
}

vivado::command wait_on_runs {} 1 1 {
    vivado::path run:[lindex $arguments 0] run
}

vivado::command get_runs {} 1 1 {
    return [vivado::find run [lindex $arguments 0]]
}

vivado::command open_run {} 1 1 {
    if {$arguments ne "impl_1"} {
        error "only a routed design has its timing"
    }
    vivado::path run:impl_1 run
    vivado::add opened impl_1
    foreach {name value} [array get vivado::statistics] {
        set vivado::properties(run:impl_1,STATS.$name) $value
    }
}

vivado::command report_timing_summary {-file=} 0 0 {
    vivado::path opened:impl_1 opened
    vivado::write [dict get $options -file] "timing\n"
}

vivado::command report_utilization {-file= -return_string} 0 0 {
    vivado::path opened:impl_1 opened
    # The rows as Vivado prints them for UltraScale+, with parents and children of those that are read.
    set text {}
    foreach {row used} {"CLB LUTs" 81234 "  LUT as Logic" 70000 "CLB Registers" 123456 "Block RAM Tile" 801.5
        "  RAMB36/FIFO*" 800 "DSPs" 1434 "  DSP48E2 only" 1434} {
        append text [format "| %-26s | %6s |     0 |          0 |    999999 | 12.34 |\n" $row $used]
    }
    if {[dict exists $options -file]} {
        vivado::write [dict get $options -file] $text
    }
    if {[dict exists $options -return_string]} {
        return $text
    }
}

vivado::command write_hw_platform {-fixed -include_bit -force} 1 1 {
    if {[dict exists $options -include_bit] && "write_bitstream" ni $vivado::steps} {
        error "there is no bitstream to include"
    }
    if {[file extension [lindex $arguments 0]] ne ".xsa"} {
        error "the file must end in .xsa"
    }
    vivado::write [lindex $arguments 0] platform
}

# Write records, one a line with tabs between the fields; vivado_ip.tcl and vivado_block.tcl add theirs.
proc vivado::report {path} {
    set lines {}
    foreach record [concat [vivado::ip_records] [vivado::block_records]] {
        append lines [join $record \t] \n
    }
    vivado::write $path $lines
}
