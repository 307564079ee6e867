# The block design: processing system, clock, reset, the core and its interconnects, in a project for the ZCU102.

# The newest version of an IP that this Vivado has; its major versions keep their pins over the years.
proc newest_vlnv {vendor_library_name} {
    set found [get_ipdefs "$vendor_library_name:*"]
    if {[llength $found] == 0} {
        error "this Vivado has no IP $vendor_library_name"
    }
    return [lindex [lsort -dictionary $found] end]
}

proc add_cell {name vendor_library_name properties} {
    set cell [create_bd_cell -type ip -vlnv [newest_vlnv $vendor_library_name] $name]
    if {[llength $properties] > 0} {
        set_property -dict $properties $cell
    }
    return $cell
}

# Vivado only warns of a pin that does not exist; here it is an error.
proc find_one {command name} {
    set found [$command -quiet $name]
    if {[llength $found] != 1} {
        error "$command finds [llength $found] of $name"
    }
    return $found
}

proc join_pins {source args} {
    foreach sink $args {
        connect_bd_net [find_one get_bd_pins $source] [find_one get_bd_pins $sink]
    }
}

proc join_interfaces {master slave} {
    connect_bd_intf_net [find_one get_bd_intf_pins $master] [find_one get_bd_intf_pins $slave]
}

# The board's preset sets DDR, MIO and clocks; only what reaches the logic is set here.
proc add_processing_system {} {
    global settings
    set cell [add_cell $settings(processing_system) xilinx.com:ip:zynq_ultra_ps_e {}]
    apply_bd_automation -rule xilinx.com:bd_rule:zynq_ultra_ps_e -config {apply_board_preset "1"} $cell
    set properties [list \
        CONFIG.PSU__FPGA_PL0_ENABLE 1 \
        CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ $settings(pl_clock_mhz) \
        CONFIG.PSU__USE__IRQ0 1 \
        CONFIG.PSU__USE__M_AXI_GP0 1 \
        CONFIG.PSU__MAXIGP0__DATA_WIDTH $settings(control_data_bits) \
        CONFIG.PSU__USE__M_AXI_GP1 0 \
        CONFIG.PSU__USE__M_AXI_GP2 0]
    foreach port $settings(memory_ports) {
        set parameter [dict get $port hp_parameter]
        lappend properties CONFIG.PSU__USE__[string map {SAXIGP S_AXI_GP} $parameter] 1
        lappend properties CONFIG.PSU__${parameter}__DATA_WIDTH $settings(hp_data_bits)
    }
    set_property -dict $properties $cell
}

proc add_clock_and_reset {} {
    global settings
    set clock_wizard $settings(clock_wizard)
    set processing_system $settings(processing_system)
    # The clock of the processing system comes through a global buffer already.
    add_cell $clock_wizard xilinx.com:ip:clk_wiz [list \
        CONFIG.PRIM_SOURCE No_buffer \
        CONFIG.CLKOUT1_REQUESTED_OUT_FREQ $settings(clock_mhz) \
        CONFIG.USE_LOCKED true \
        CONFIG.USE_RESET true \
        CONFIG.RESET_TYPE ACTIVE_LOW \
        CONFIG.RESET_PORT resetn]
    add_cell $settings(system_reset) xilinx.com:ip:proc_sys_reset {}
    join_pins $processing_system/pl_clk0 $clock_wizard/clk_in1
    join_pins $processing_system/pl_resetn0 $clock_wizard/resetn $settings(system_reset)/ext_reset_in
    join_pins $clock_wizard/locked $settings(system_reset)/dcm_locked
}

# An interconnect of one master and one slave: it converts widths and protocols.
proc add_interconnect {name master slave} {
    add_cell $name xilinx.com:ip:smartconnect {CONFIG.NUM_SI 1 CONFIG.NUM_MI 1}
    join_interfaces $master $name/S00_AXI
    join_interfaces $name/M00_AXI $slave
}

proc add_core {} {
    global settings
    set core $settings(instance)
    set processing_system $settings(processing_system)
    create_bd_cell -type ip -vlnv $settings(vlnv) $core
    set interconnects [list $settings(control_interconnect)]
    set clocked [list $settings(system_reset)/slowest_sync_clk $core/$settings(clock_pin) \
        $processing_system/maxihpm0_fpd_aclk]
    add_interconnect $settings(control_interconnect) \
        $processing_system/M_AXI_HPM0_FPD $core/$settings(control_interface)
    foreach port $settings(memory_ports) {
        add_interconnect [dict get $port interconnect] \
            $core/[dict get $port interface] $processing_system/[dict get $port hp_interface]
        lappend interconnects [dict get $port interconnect]
        lappend clocked $processing_system/[dict get $port hp_clock]
    }
    foreach interconnect $interconnects {
        lappend clocked $interconnect/aclk
        join_pins $settings(system_reset)/interconnect_aresetn $interconnect/aresetn
    }
    join_pins $settings(clock_wizard)/clk_out1 {*}$clocked
    join_pins $settings(system_reset)/peripheral_reset $core/$settings(reset_pin)
    join_pins $core/$settings(interrupt_pin) $processing_system/pl_ps_irq0
}

proc assign_window {space segment base size} {
    assign_bd_address -offset [format 0x%llX $base] -range [format 0x%llX $size] -target_address_space $space $segment
}

proc assign_addresses {} {
    global settings
    set core $settings(instance)
    set processing_system $settings(processing_system)
    assign_window [find_one get_bd_addr_spaces $processing_system/Data] \
        [find_one get_bd_addr_segs $core/$settings(control_interface)/$settings(control_block)] \
        $settings(control_base) $settings(control_range)
    foreach port $settings(memory_ports) {
        set space [find_one get_bd_addr_spaces $core/[dict get $port interface]]
        set used {}
        foreach window [dict get $port windows] {
            set segment [dict get $window segment]
            lappend used [file tail $segment]
            assign_window $space [find_one get_bd_addr_segs $processing_system/$segment] \
                [dict get $window base] [dict get $window size]
        }
        # Not DDR: a segment that is neither assigned nor excluded is a critical warning.
        foreach segment [get_bd_addr_segs $processing_system/[dict get $port hp_parameter]/*] {
            if {[get_property NAME $segment] ni $used} {
                exclude_bd_addr_seg -target_address_space $space $segment
            }
        }
    }
}

# Create the project in project_folder with the packaged core of ip_folder, and its block design as top.
# Return the clock in MHz that the clock wizard makes of what it was asked for.
proc create_design {project_folder ip_folder} {
    global settings
    create_project -force $settings(design) $project_folder -part $settings(part)
    if {[llength [get_board_parts -quiet $settings(board_part)]] == 0} {
        error "this Vivado has no files of the board $settings(board_part): install them"
    }
    set_property board_part $settings(board_part) [current_project]
    set_property ip_repo_paths [list $ip_folder] [current_project]
    update_ip_catalog -rebuild

    create_bd_design $settings(design)
    add_processing_system
    add_clock_and_reset
    add_core
    assign_addresses
    validate_bd_design
    save_bd_design

    # One synthesis of the whole, under the real clocks: no out-of-context constraints are needed, and none other
    # either, because the processing system and the clock wizard bring their own and no pin leaves the design.
    set design_file [get_files $settings(design).bd]
    set_property synth_checkpoint_mode None $design_file
    generate_target all $design_file
    add_files -norecurse [make_wrapper -files $design_file -top]
    set_property top $settings(design)_wrapper [current_fileset]
    update_compile_order -fileset sources_1
    return [expr {[get_property CONFIG.FREQ_HZ [find_one get_bd_pins $settings(clock_wizard)/clk_out1]] / 1e6}]
}
