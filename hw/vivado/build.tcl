# Build the overlay: vivado -mode batch -source build.tcl
#
# reports/ gets timing and utilisation in any case; overlay/ gets heatvit.bit, .hwh, .xsa and manifest.json only if the
# routed design meets its timing. An error ends Vivado with exit code 1.

set folder [file dirname [file normalize [info script]]]
foreach name {settings package design results} {
    source [file join $folder $name.tcl]
}

proc finish_run {name args} {
    launch_runs $name {*}$args
    wait_on_runs $name
    if {[get_property PROGRESS [get_runs $name]] ne "100%"} {
        error "run $name has failed: [get_property STATUS [get_runs $name]]"
    }
}

proc build {folder} {
    global settings
    set overlay [file join $folder overlay]
    set reports [file join $folder reports]
    set project [file join $folder project]
    set ip [file join $folder ip]
    # A failed build must not leave what an earlier one made.
    file delete -force $overlay $reports
    file mkdir $reports
    if {[package vcompare [version -short] $settings(oldest_vivado)] < 0} {
        error "Vivado must be $settings(oldest_vivado) or newer, not [version -short]"
    }

    package_core $folder [file join $folder package_project] $ip
    set clock_mhz [create_design $project $ip]
    finish_run synth_1
    finish_run impl_1
    open_run impl_1
    report_timing_summary -file [file join $reports timing.rpt]
    report_utilization -file [file join $reports utilisation.rpt]
    set utilisation [read_utilisation [report_utilization -return_string]]
    set run [get_runs impl_1]
    set worst_slack_ns [check_timing_of $run]

    finish_run impl_1 -to_step write_bitstream
    set design $settings(design)
    file mkdir $overlay
    file copy [file join [get_property DIRECTORY $run] ${design}_wrapper.bit] [file join $overlay $design.bit]
    file copy [file join $project $design.gen sources_1 bd $design hw_handoff $design.hwh] $overlay
    write_hw_platform -fixed -include_bit -force [file join $overlay $design.xsa]
    write_manifest [file join $overlay manifest.json] $clock_mhz $worst_slack_ns $utilisation
}

build $folder
