# Package the core's Verilog as an IP. Every interface is stated here: what Vivado infers from pin names is removed,
# because it differs between versions and guesses the polarity of the reset.

# Add an interface whose type is such as interface:aximm or signal:clock; pins is a list of logical and physical names.
proc add_interface {core name mode type pins parameters} {
    set interface [ipx::add_bus_interface $name $core]
    set_property interface_mode $mode $interface
    set_property bus_type_vlnv "xilinx.com:$type:1.0" $interface
    set_property abstraction_type_vlnv "xilinx.com:${type}_rtl:1.0" $interface
    foreach {logical physical} $pins {
        set_property physical_name $physical [ipx::add_port_map $logical $interface]
    }
    foreach {parameter value} $parameters {
        set_property value $value [ipx::add_bus_parameter $parameter $interface]
    }
    return $interface
}

proc remove_inferred {core} {
    foreach interface [ipx::get_bus_interfaces -of_objects $core] {
        ipx::remove_bus_interface [get_property NAME $interface] $core
    }
    foreach map [ipx::get_memory_maps -of_objects $core] {
        ipx::remove_memory_map [get_property NAME $map] $core
    }
    foreach space [ipx::get_address_spaces -of_objects $core] {
        ipx::remove_address_space [get_property NAME $space] $core
    }
}

# The registers: one block that fills the window of the AXI4-Lite slave.
proc add_registers {core interface} {
    global settings
    set map [ipx::add_memory_map $settings(control_interface) $core]
    set block [ipx::add_address_block $settings(control_block) $map]
    set_property base_address 0 $block
    set_property range $settings(control_range) $block
    set_property width 32 $block
    set_property usage register $block
    set_property slave_memory_map_ref $settings(control_interface) $interface
}

# The memory that a master sees: all that its address pins reach.
proc add_memory_space {core interface name address_bits data_bits} {
    set space [ipx::add_address_space $name $core]
    set_property range [expr {1 << $address_bits}] $space
    set_property width $data_bits $space
    set_property master_address_space_ref $name $interface
}

proc add_interfaces {core} {
    global settings
    set names {}
    foreach description $settings(interfaces) {
        set name [dict get $description name]
        lappend names $name
        set pins {}
        foreach pin [dict get $description pins] {
            lappend pins [string toupper $pin] "${name}_$pin"
        }
        set mode [dict get $description mode]
        set interface [add_interface $core $name $mode interface:aximm $pins [dict get $description parameters]]
        if {$mode eq "slave"} {
            add_registers $core $interface
        } else {
            set widths [list [dict get $description address_bits] [dict get $description data_bits]]
            add_memory_space $core $interface $name {*}$widths
        }
    }
    add_interface $core $settings(clock_pin) slave signal:clock [list CLK $settings(clock_pin)] \
        [list ASSOCIATED_BUSIF [join $names :] ASSOCIATED_RESET $settings(reset_pin)]
    add_interface $core $settings(reset_pin) slave signal:reset [list RST $settings(reset_pin)] {POLARITY ACTIVE_HIGH}
    add_interface $core $settings(interrupt_pin) master signal:interrupt [list INTERRUPT $settings(interrupt_pin)] \
        {SENSITIVITY LEVEL_HIGH}
}

# Write the IP into the folder ip_folder, through a project of its own in project_folder.
proc package_core {source_folder project_folder ip_folder} {
    global settings
    create_project -force package $project_folder -part $settings(part)
    foreach source $settings(sources) {
        add_files -norecurse [file join $source_folder $source]
    }
    set_property top $settings(top) [current_fileset]
    update_compile_order -fileset sources_1

    lassign [split $settings(vlnv) :] vendor library name version
    ipx::package_project -root_dir $ip_folder -vendor $vendor -library $library -taxonomy /UserIP -import_files -force
    set core [ipx::current_core]
    set_property name $name $core
    set_property version $version $core
    set_property display_name "heatvit accelerator" $core
    set_property description "Vision Transformers with token selectors, int8" $core
    remove_inferred $core
    add_interfaces $core

    ipx::create_xgui_files $core
    ipx::update_checksums $core
    ipx::check_integrity $core
    ipx::save_core $core
    close_project
}
