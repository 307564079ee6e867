# The ipx commands of vivado_stubs.tcl, and the IP that they package. Vivado infers some interfaces by itself: here one
# of each kind, which the script must remove.

namespace eval ipx {}

array set vivado::settable {
    ipx_core {name version display_name description}
    ipx_interface {interface_mode bus_type_vlnv abstraction_type_vlnv slave_memory_map_ref master_address_space_ref}
    ipx_port_map {physical_name}
    ipx_parameter {value}
    ipx_map {}
    ipx_block {base_address range width usage}
    ipx_space {range width}
}
namespace eval vivado {
    variable core {} vendor_library {} ip_folder {} saved {}
    # Pins that the bus definitions have: those of AXI are upper case, as everywhere.
    variable axi_pins {}
    foreach channel {AW AR} {
        foreach pin {ID ADDR LEN SIZE BURST LOCK CACHE PROT VALID READY} {
            lappend axi_pins $channel$pin
        }
    }
    lappend axi_pins WDATA WSTRB WLAST WVALID WREADY BID BRESP BVALID BREADY RID RDATA RRESP RLAST RVALID RREADY
    array set bus_pins [list interface:aximm $axi_pins signal:clock CLK signal:reset RST signal:interrupt INTERRUPT]
    array set bus_parameters {
        interface:aximm {PROTOCOL SUPPORTS_NARROW_BURST MAX_BURST_LENGTH NUM_READ_OUTSTANDING NUM_WRITE_OUTSTANDING}
        signal:clock {ASSOCIATED_BUSIF ASSOCIATED_RESET}
        signal:reset {POLARITY}
        signal:interrupt {SENSITIVITY}
    }
}

# The type of an interface, such as interface:aximm; its two VLNVs must agree.
proc vivado::bus_type {interface} {
    set vlnv [vivado::property $interface bus_type_vlnv]
    lassign [split $vlnv :] vendor library name version
    if {"$vendor:$version" ne "xilinx.com:1.0" || ![info exists vivado::bus_pins($library:$name)]} {
        error "no such bus: $vlnv"
    }
    if {[vivado::property $interface abstraction_type_vlnv] ne "$vendor:$library:${name}_rtl:$version"} {
        error "$interface: bus and abstraction differ"
    }
    return $library:$name
}

proc vivado::remove {kind path} {
    vivado::path $kind:$path $kind
    array unset vivado::objects $kind:$path
}

# Options: those that are in use at the public repositories of Vivado's users; ipx commands have -help only in Vivado.
vivado::command ipx::package_project {-root_dir= -vendor= -library= -taxonomy= -import_files -force} 0 0 {
    if {[llength $vivado::files] == 0} {
        error "the project has no files"
    }
    foreach name {-root_dir -vendor -library -taxonomy -import_files} {
        dict get $options $name
    }
    set vivado::ip_folder [dict get $options -root_dir]
    set vivado::core [vivado::add ipx_core core]
    set vivado::vendor_library [dict get $options -vendor]:[dict get $options -library]
    vivado::add ipx_interface inferred
    vivado::add ipx_map inferred
    vivado::add ipx_space inferred
}

vivado::command ipx::current_core {} 0 0 {
    vivado::path $vivado::core ipx_core
    return $vivado::core
}

foreach {plural kind} {bus_interfaces ipx_interface memory_maps ipx_map address_spaces ipx_space} {
    vivado::command ipx::get_$plural {-of_objects=} 0 1 [string map [list KIND $kind] {
        vivado::path [dict get $options -of_objects] ipx_core
        return [vivado::find KIND [expr {[llength $arguments] ? [lindex $arguments 0] : "*"}]]
    }]
}

foreach {singular kind} {bus_interface ipx_interface memory_map ipx_map address_space ipx_space} {
    vivado::command ipx::add_$singular {} 2 2 [string map [list KIND $kind] {
        vivado::path [lindex $arguments 1] ipx_core
        return [vivado::add KIND [lindex $arguments 0]]
    }]
    vivado::command ipx::remove_$singular {} 2 2 [string map [list KIND $kind] {
        vivado::path [lindex $arguments 1] ipx_core
        vivado::remove KIND [lindex $arguments 0]
    }]
}

vivado::command ipx::add_port_map {} 2 2 {
    lassign $arguments logical interface
    set path [vivado::path $interface ipx_interface]
    if {$logical ni $vivado::bus_pins([vivado::bus_type $interface])} {
        error "$interface has no pin $logical"
    }
    return [vivado::add ipx_port_map $path/$logical]
}

vivado::command ipx::add_bus_parameter {} 2 2 {
    lassign $arguments name interface
    set path [vivado::path $interface ipx_interface]
    if {$name ni $vivado::bus_parameters([vivado::bus_type $interface])} {
        error "$interface has no parameter $name"
    }
    return [vivado::add ipx_parameter $path/$name]
}

vivado::command ipx::add_address_block {} 2 2 {
    lassign $arguments name map
    return [vivado::add ipx_block [vivado::path $map ipx_map]/$name]
}

foreach name {create_xgui_files update_checksums check_integrity} {
    vivado::command ipx::$name {} 1 1 {
        vivado::path [lindex $arguments 0] ipx_core
    }
}

vivado::command ipx::save_core {} 1 1 {
    vivado::path [lindex $arguments 0] ipx_core
    set vivado::saved "$vivado::vendor_library:[vivado::property $vivado::core name]:[vivado::property $vivado::core version]"
    vivado::write $vivado::ip_folder/component.xml $vivado::saved
}

proc vivado::property_or_nothing {object name} {
    return [expr {[info exists vivado::properties($object,$name)] ? $vivado::properties($object,$name) : ""}]
}

proc vivado::ip_records {} {
    set records {}
    foreach interface [vivado::find ipx_interface *] {
        lappend records [list interface [vivado::path $interface ipx_interface] [vivado::property $interface interface_mode] \
            [vivado::bus_type $interface] [vivado::property_or_nothing $interface slave_memory_map_ref] \
            [vivado::property_or_nothing $interface master_address_space_ref]]
    }
    foreach {kind property} {ipx_port_map physical_name ipx_parameter value} {
        foreach object [vivado::find $kind *] {
            lappend records [list $kind {*}[split [vivado::path $object $kind] /] [vivado::property $object $property]]
        }
    }
    foreach block [vivado::find ipx_block *] {
        lappend records [list ipx_block {*}[split [vivado::path $block ipx_block] /] \
            [vivado::property $block base_address] [vivado::property $block range]]
    }
    foreach space [vivado::find ipx_space *] {
        lappend records [list ipx_space [vivado::path $space ipx_space] [vivado::property $space range]]
    }
    return $records
}
