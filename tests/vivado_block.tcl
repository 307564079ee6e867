# The block design commands of vivado_stubs.tcl. The pins of a cell follow from its configuration, as in Vivado.

namespace eval vivado {
    # Several versions of an IP, so that the newest must be chosen; another that only begins with the same name.
    variable catalogue {
        xilinx.com:ip:zynq_ultra_ps_e:3.3 xilinx.com:ip:zynq_ultra_ps_e:3.4 xilinx.com:ip:zynq_ultra_ps_e_vip:9.0
        xilinx.com:ip:clk_wiz:5.4 xilinx.com:ip:clk_wiz:6.0 xilinx.com:ip:proc_sys_reset:5.0
        xilinx.com:ip:smartconnect:1.0
    }
    # What can be configured, with the defaults; those of the processing system are the board preset's.
    array set parameters {
        clk_wiz {PRIM_SOURCE Single_ended_clock_capable_pin CLKOUT1_REQUESTED_OUT_FREQ 100.000 USE_LOCKED true
            USE_RESET true RESET_TYPE ACTIVE_HIGH RESET_PORT reset}
        proc_sys_reset {}
        smartconnect {NUM_SI 2 NUM_MI 1}
        zynq_ultra_ps_e {PSU__FPGA_PL0_ENABLE 1 PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ 100 PSU__USE__IRQ0 0
            PSU__USE__M_AXI_GP0 1 PSU__MAXIGP0__DATA_WIDTH 128 PSU__USE__M_AXI_GP1 1 PSU__USE__M_AXI_GP2 0}
    }
    foreach gp {2 3 4 5} {
        lappend parameters(zynq_ultra_ps_e) PSU__USE__S_AXI_GP$gp 0 PSU__SAXIGP${gp}__DATA_WIDTH 64
    }
    variable design {} bd_file {}
    array set items {}
    array set nets {}
    array set interface_nets {}
    array set assigned {}
}

proc vivado::set_config {cell name value} {
    set vivado::properties($cell,CONFIG.$name) $value
}

proc vivado::config {cell name} {
    return $vivado::properties($cell,CONFIG.$name)
}

# What kind of IP a cell is: the name in its VLNV.
proc vivado::ip_name {cell} {
    return [lindex [split [vivado::property $cell VLNV] :] 2]
}

# Pins {name direction role} of a cell; the role of a net's driver and sinks must be the same, but reset takes both.
proc vivado::pins_of {cell} {
    switch [vivado::ip_name $cell] {
        clk_wiz {
            set role [expr {[vivado::config $cell RESET_TYPE] eq "ACTIVE_LOW" ? "resetn" : "reset_high"}]
            return [list {clk_in1 in clock} {clk_out1 out clock} {locked out locked} \
                [list [vivado::config $cell RESET_PORT] in $role]]
        }
        proc_sys_reset {
            return {{slowest_sync_clk in clock} {ext_reset_in in reset} {dcm_locked in locked}
                {aux_reset_in in optional} {mb_debug_sys_rst in optional} {mb_reset out reset_high}
                {bus_struct_reset out reset_high} {peripheral_reset out reset_high}
                {interconnect_aresetn out resetn} {peripheral_aresetn out resetn}}
        }
        smartconnect {
            return {{aclk in clock} {aresetn in resetn}}
        }
        zynq_ultra_ps_e {
            set pins {{pl_resetn0 out resetn}}
            foreach {parameter pin} {
                FPGA_PL0_ENABLE {pl_clk0 out clock} USE__IRQ0 {pl_ps_irq0 in interrupt}
                USE__M_AXI_GP0 {maxihpm0_fpd_aclk in clock} USE__M_AXI_GP1 {maxihpm1_fpd_aclk in clock}
                USE__M_AXI_GP2 {maxihpm0_lpd_aclk in clock} USE__S_AXI_GP2 {saxihp0_fpd_aclk in clock}
                USE__S_AXI_GP3 {saxihp1_fpd_aclk in clock} USE__S_AXI_GP4 {saxihp2_fpd_aclk in clock}
                USE__S_AXI_GP5 {saxihp3_fpd_aclk in clock}
            } {
                if {[vivado::config $cell PSU__$parameter]} {
                    lappend pins $pin
                }
            }
            return $pins
        }
    }
    return [vivado::core_pins]
}

# The core's pins that are in no AXI interface, each with the role that the packaging gave it.
proc vivado::core_pins {} {
    foreach interface [vivado::find ipx_interface *] {
        set path [vivado::path $interface ipx_interface]
        foreach map [vivado::find ipx_port_map $path/*] {
            set type([vivado::property $map physical_name]) [vivado::bus_type $interface]
        }
    }
    set roles {signal:clock clock signal:reset reset_high signal:interrupt interrupt}
    set pins {}
    foreach port $vivado::ports {
        lassign $port name direction
        if {![info exists type($name)]} {
            lappend pins [list $name $direction plain]
        } elseif {$type($name) ne "interface:aximm"} {
            lappend pins [list $name $direction [dict get $roles $type($name)]]
        }
    }
    return $pins
}

# Interface pins {name mode} of a cell.
proc vivado::interfaces_of {cell} {
    set found {}
    switch [vivado::ip_name $cell] {
        smartconnect {
            for {set index 0} {$index < [vivado::config $cell NUM_SI]} {incr index} {
                lappend found [list [format S%02d_AXI $index] slave]
            }
            for {set index 0} {$index < [vivado::config $cell NUM_MI]} {incr index} {
                lappend found [list [format M%02d_AXI $index] master]
            }
        }
        zynq_ultra_ps_e {
            foreach {parameter pin} {
                M_AXI_GP0 {M_AXI_HPM0_FPD master} M_AXI_GP1 {M_AXI_HPM1_FPD master} M_AXI_GP2 {M_AXI_HPM0_LPD master}
                S_AXI_GP2 {S_AXI_HP0_FPD slave} S_AXI_GP3 {S_AXI_HP1_FPD slave} S_AXI_GP4 {S_AXI_HP2_FPD slave}
                S_AXI_GP5 {S_AXI_HP3_FPD slave}
            } {
                if {[vivado::config $cell PSU__USE__$parameter]} {
                    lappend found $pin
                }
            }
        }
        clk_wiz - proc_sys_reset {}
        default {
            foreach interface [vivado::find ipx_interface *] {
                if {[vivado::bus_type $interface] eq "interface:aximm"} {
                    lappend found [list [vivado::path $interface ipx_interface] [vivado::property $interface interface_mode]]
                }
            }
        }
    }
    return $found
}

# Address spaces of a cell and, for each interface that has them, segments {path base size}; base is "" if it is free.
proc vivado::spaces_of {cell} {
    set name [vivado::path $cell bd_cell]
    switch [vivado::ip_name $cell] {
        clk_wiz - proc_sys_reset - smartconnect {
            return {}
        }
        zynq_ultra_ps_e {
            return [list $name/Data]
        }
    }
    set spaces {}
    foreach space [vivado::find ipx_space *] {
        lappend spaces $name/[vivado::path $space ipx_space]
    }
    return $spaces
}

proc vivado::segments_of {cell} {
    set name [vivado::path $cell bd_cell]
    set segments {}
    switch [vivado::ip_name $cell] {
        clk_wiz - proc_sys_reset - smartconnect {}
        zynq_ultra_ps_e {
            foreach interface [vivado::interfaces_of $cell] {
                if {[regexp {^S_AXI_HP(\d)_FPD$} [lindex $interface 0] match port]} {
                    foreach part {DDR_LOW DDR_HIGH LPS_OCM PCIE_LOW QSPI} {
                        lappend segments [list $name/SAXIGP[expr {$port + 2}]/HP${port}_$part $name/$match]
                    }
                }
            }
        }
        default {
            foreach interface [vivado::find ipx_interface *] {
                set map [vivado::property_or_nothing $interface slave_memory_map_ref]
                foreach block [vivado::find ipx_block $map/*] {
                    lappend segments [list $name/[vivado::path $block ipx_block] \
                        $name/[vivado::path $interface ipx_interface]]
                }
            }
        }
    }
    return $segments
}

vivado::command update_ip_catalog {-rebuild} 0 0 {
    foreach folder [vivado::property [current_project] ip_repo_paths] {
        vivado::check_file $folder/component.xml
        lappend vivado::catalogue $vivado::saved
    }
}

vivado::command get_ipdefs {-all} 0 1 {
    return [lsearch -all -inline $vivado::catalogue [lindex $arguments 0]]
}

vivado::command create_bd_design {} 1 1 {
    set vivado::design [lindex $arguments 0]
    set vivado::bd_file [vivado::add file $vivado::project_folder/$vivado::project.srcs/sources_1/bd/$vivado::design/$vivado::design.bd]
}

vivado::command create_bd_cell {-type= -vlnv=} 1 1 {
    set vlnv [dict get $options -vlnv]
    if {[dict get $options -type] ne "ip" || $vlnv ni $vivado::catalogue} {
        error "create_bd_cell: no IP $vlnv in the catalogue"
    }
    set cell [vivado::add bd_cell [lindex $arguments 0]]
    set vivado::properties($cell,VLNV) $vlnv
    set name [vivado::ip_name $cell]
    if {[info exists vivado::parameters($name)]} {
        foreach {parameter value} $vivado::parameters($name) {
            vivado::set_config $cell $parameter $value
        }
    }
    return $cell
}

vivado::command apply_bd_automation {-rule= -config=} 1 1 {
    vivado::path [lindex $arguments 0] bd_cell
    if {[dict get $options -rule] ne "xilinx.com:bd_rule:zynq_ultra_ps_e"
        || [dict get $options -config] ne {apply_board_preset "1"}
        || [vivado::property [current_project] board_part] ni $vivado::board_parts} {
        error "no such automation"
    }
    vivado::add preset applied
}

# Make objects of all pins, interfaces, spaces or segments that the cells have now, and return those of a name.
proc vivado::refresh {kind procedure pattern} {
    array unset vivado::objects $kind:*
    foreach cell [vivado::find bd_cell *] {
        foreach item [$procedure $cell] {
            set name [lindex $item 0]
            if {$kind in {bd_pin bd_interface_pin}} {
                set name [vivado::path $cell bd_cell]/$name
            }
            set vivado::items([vivado::add $kind $name]) $item
        }
    }
    return [vivado::find $kind $pattern]
}

foreach {name kind procedure} {
    get_bd_pins bd_pin vivado::pins_of
    get_bd_intf_pins bd_interface_pin vivado::interfaces_of
    get_bd_addr_spaces bd_space vivado::spaces_of
    get_bd_addr_segs bd_segment vivado::segments_of
} {
    vivado::command $name {-quiet} 1 1 "return \[vivado::refresh $kind $procedure \[lindex \$arguments 0\]\]"
}

vivado::command connect_bd_net {-net=} 2 2 {
    lassign $arguments driver sink
    foreach object $arguments {
        vivado::path $object bd_pin
    }
    lassign $vivado::items($driver) name direction role
    lassign $vivado::items($sink) sink_name sink_direction sink_role
    if {$direction ne "out" || $sink_direction ne "in"} {
        error "$driver does not drive $sink"
    }
    if {$role ne $sink_role && !($sink_role eq "reset" && $role in {resetn reset_high})} {
        error "$driver is $role, $sink is $sink_role"
    }
    if {[info exists vivado::nets($sink)]} {
        error "$sink is connected already"
    }
    set vivado::nets($sink) $driver
}

vivado::command connect_bd_intf_net {-intf_net=} 2 2 {
    lassign $arguments master slave
    foreach {object mode} [list $master master $slave slave] {
        vivado::path $object bd_interface_pin
        if {[lindex $vivado::items($object) 1] ne $mode} {
            error "$object is no $mode"
        }
        if {[info exists vivado::interface_nets($object)]} {
            error "$object is connected already"
        }
    }
    set vivado::interface_nets($master) $slave
    set vivado::interface_nets($slave) $master
}

# The interface pin at which what a master says arrives, through one interconnect.
proc vivado::reached_by {master} {
    set path [vivado::path $vivado::interface_nets($master) bd_interface_pin]
    return $vivado::interface_nets(bd_interface_pin:[file dirname $path]/M00_AXI)
}

# Fail unless a master's space reaches the slave of a segment.
proc vivado::check_reach {space segment} {
    set path [vivado::path $space bd_space]
    set slave [lindex $vivado::items($segment) 1]
    if {[file tail $path] eq "Data"} {
        set path [file dirname $path]/M_AXI_HPM0_FPD
    }
    if {[vivado::reached_by bd_interface_pin:$path] ne "bd_interface_pin:$slave"} {
        error "$space does not reach $segment"
    }
}

vivado::command assign_bd_address {-target_address_space= -offset= -range= -force} 1 1 {
    set segment [lindex $arguments 0]
    set space [dict get $options -target_address_space]
    vivado::path $segment bd_segment
    vivado::check_reach $space $segment
    set offset [dict get $options -offset]
    set range [dict get $options -range]
    if {$range < 4096 || $range & ($range - 1) || $offset % $range} {
        error "a segment must be a power of two from 4096 at a multiple of itself, not $range at $offset"
    }
    if {[file tail $space] eq "Data" && !($offset >= 0xA0000000 && $offset + $range <= 0xB0000000)} {
        error "$offset is not in M_AXI_HPM0_FPD"
    }
    set vivado::assigned($space,$segment) [list $offset $range]
}

vivado::command exclude_bd_addr_seg {-target_address_space=} 1 1 {
    set segment [lindex $arguments 0]
    set space [dict get $options -target_address_space]
    vivado::path $segment bd_segment
    vivado::check_reach $space $segment
    if {[info exists vivado::assigned($space,$segment)]} {
        error "$segment is assigned"
    }
    set vivado::assigned($space,$segment) excluded
}

vivado::command validate_bd_design {} 0 0 {
    vivado::path preset:applied preset
    foreach cell [vivado::find bd_cell *] {
        if {[vivado::ip_name $cell] eq "clk_wiz"} {
            set pin bd_pin:[vivado::path $cell bd_cell]/clk_out1
            # The wizard cannot make every frequency: a little less than asked for.
            set vivado::properties($pin,CONFIG.FREQ_HZ) \
                [expr {round([vivado::config $cell CLKOUT1_REQUESTED_OUT_FREQ] * 1e6) - 2500}]
        }
    }
    vivado::add valid $vivado::design
}

vivado::command save_bd_design {} 0 0 {
    vivado::write [vivado::path $vivado::bd_file file] design
}

vivado::command generate_target {} 2 2 {
    vivado::path valid:$vivado::design valid
    set design $vivado::design
    if {[lindex $arguments 0] ne "all"} {
        error "no such target"
    }
    vivado::check_file [vivado::path [lindex $arguments 1] file]
    vivado::write $vivado::project_folder/$vivado::project.gen/sources_1/bd/$design/hw_handoff/$design.hwh handoff
}

vivado::command make_wrapper {-files= -top} 0 0 {
    vivado::path [dict get $options -files] file
    set wrapper $vivado::project_folder/$vivado::project.gen/sources_1/bd/$vivado::design/hdl/${vivado::design}_wrapper.v
    vivado::write $wrapper wrapper
    return $wrapper
}

proc vivado::block_records {} {
    set records {}
    foreach cell [vivado::find bd_cell *] {
        set name [vivado::path $cell bd_cell]
        lappend records [list cell $name [vivado::property $cell VLNV]]
        foreach key [array names vivado::properties $cell,CONFIG.*] {
            lappend records [list config $name [string range $key [string length $cell,CONFIG.] end] $vivado::properties($key)]
        }
        foreach pin [vivado::pins_of $cell] {
            lappend records [list pin $name {*}$pin]
        }
        foreach interface [vivado::interfaces_of $cell] {
            lappend records [list interface_pin $name {*}$interface]
        }
        foreach segment [vivado::segments_of $cell] {
            lappend records [list segment {*}$segment]
        }
    }
    foreach {sink driver} [array get vivado::nets] {
        lappend records [list net [vivado::path $driver bd_pin] [vivado::path $sink bd_pin]]
    }
    foreach master [array names vivado::interface_nets] {
        if {[lindex $vivado::items($master) 1] eq "master"} {
            lappend records [list interface_net [vivado::path $master bd_interface_pin] \
                [vivado::path $vivado::interface_nets($master) bd_interface_pin]]
        }
    }
    foreach {key value} [array get vivado::assigned] {
        lassign [split $key ,] space segment
        lappend records [list address [vivado::path $space bd_space] [vivado::path $segment bd_segment] {*}$value]
    }
    return $records
}
