// The INT8 convolution engine; docs/fpga.md describes it.
//
// One clock, synchronous resets. AXI4-Lite for registers, an AXI4 master of 128 bits for
// descriptors, weights, images and outputs.
module engine #(
    parameter int unsigned BLOCKS = 2,         // of 16 x 16 multipliers: 2 or 4
    parameter int unsigned TILE = 256,         // vectors in a tile, at most
    parameter int unsigned ROWS = 28672,       // of each of four banks of activation memory
    parameter int unsigned CLOCK_MHZ = 250     // what the design aims at
) (
    input  logic         aclk,
    input  logic         aresetn,
    output logic         irq,

    input  logic         s_axi_awvalid,
    output logic         s_axi_awready,
    input  logic [7:0]   s_axi_awaddr,
    input  logic         s_axi_wvalid,
    output logic         s_axi_wready,
    input  logic [31:0]  s_axi_wdata,
    input  logic [3:0]   s_axi_wstrb,
    output logic         s_axi_bvalid,
    input  logic         s_axi_bready,
    output logic [1:0]   s_axi_bresp,
    input  logic         s_axi_arvalid,
    output logic         s_axi_arready,
    input  logic [7:0]   s_axi_araddr,
    output logic         s_axi_rvalid,
    input  logic         s_axi_rready,
    output logic [31:0]  s_axi_rdata,
    output logic [1:0]   s_axi_rresp,

    output logic         m_axi_arvalid,
    input  logic         m_axi_arready,
    output logic [39:0]  m_axi_araddr,
    output logic [7:0]   m_axi_arlen,
    output logic [2:0]   m_axi_arsize,
    output logic [1:0]   m_axi_arburst,
    output logic [3:0]   m_axi_arcache,
    output logic [2:0]   m_axi_arprot,
    input  logic         m_axi_rvalid,
    output logic         m_axi_rready,
    input  logic [127:0] m_axi_rdata,
    input  logic [1:0]   m_axi_rresp,
    input  logic         m_axi_rlast,
    output logic         m_axi_awvalid,
    input  logic         m_axi_awready,
    output logic [39:0]  m_axi_awaddr,
    output logic [7:0]   m_axi_awlen,
    output logic [2:0]   m_axi_awsize,
    output logic [1:0]   m_axi_awburst,
    output logic [3:0]   m_axi_awcache,
    output logic [2:0]   m_axi_awprot,
    output logic         m_axi_wvalid,
    input  logic         m_axi_wready,
    output logic [127:0] m_axi_wdata,
    output logic [15:0]  m_axi_wstrb,
    output logic         m_axi_wlast,
    input  logic         m_axi_bvalid,
    output logic         m_axi_bready,
    input  logic [1:0]   m_axi_bresp
);
  localparam int unsigned ENTRIES = 16;
  localparam int unsigned BITS = $clog2(TILE);
  localparam int unsigned ENTRY_BITS = $clog2(ENTRIES);
  localparam int unsigned QUEUE = 8;  // descriptors between those that fetch and the array

  assign m_axi_arsize = 3'd4;
  assign m_axi_arburst = 2'b01;
  assign m_axi_arcache = 4'b0011;
  assign m_axi_arprot = 3'b000;
  assign m_axi_awsize = 3'd4;
  assign m_axi_awburst = 2'b01;
  assign m_axi_awcache = 4'b0011;
  assign m_axi_awprot = 3'b000;

  logic clk, rst, core_rst;
  assign clk = aclk;
  always_ff @(posedge clk) rst <= !aresetn;

  // Registers and the frame.
  logic run, halt, complete, fault, read_error, write_error, read_waiting, write_waiting;
  logic reader_quiet, writer_quiet, beat_written;
  logic [7:0] fault_cause;
  logic [15:0] index, count;
  logic [39:0] descriptors, image, outputs;
  logic unused_bits;
  assign unused_bits = &outputs[3:0];  // zero: the address is aligned
  logic whole, stall_weights, stall_drain, stall_dependency, stall_port, stall_fetch;
  logic [4:0] beats_asked;
  registers #(.BLOCKS(BLOCKS), .TILE(TILE), .ROWS(ROWS), .CLOCK_MHZ(CLOCK_MHZ)) frame (
      .clk, .rst,
      .s_axi_awvalid, .s_axi_awready, .s_axi_awaddr, .s_axi_wvalid, .s_axi_wready, .s_axi_wdata,
      .s_axi_wstrb, .s_axi_bvalid, .s_axi_bready, .s_axi_bresp, .s_axi_arvalid, .s_axi_arready,
      .s_axi_araddr, .s_axi_rvalid, .s_axi_rready, .s_axi_rdata, .s_axi_rresp, .irq,
      .run, .halt, .descriptors, .count, .image, .outputs,
      .complete, .fault, .fault_cause, .index, .read_error, .write_error, .read_waiting,
      .write_waiting, .quiet(reader_quiet && writer_quiet),
      .vector(whole), .stall_weights, .stall_drain, .stall_dependency, .stall_port, .stall_fetch,
      .beats_asked, .beat_written
  );
  always_ff @(posedge clk) core_rst <= rst || !run;

  // The memory bus, reading: descriptors, parameters, weights, images.
  logic [3:0] request, grant, data_valid, request_tag;
  logic [159:0] request_address;
  logic [19:0] request_length;
  logic data_tag, image_ready;
  logic [127:0] data;
  reader bus_reader (
      .clk, .rst, .halt, .quiet(reader_quiet), .error(read_error), .waiting(read_waiting),
      .request(core_rst ? 4'd0 : request), .request_address, .request_length, .request_tag, .grant,
      .valid(data_valid), .tag(data_tag), .data, .ready(image_ready),
      .m_axi_arvalid, .m_axi_arready, .m_axi_araddr, .m_axi_arlen,
      .m_axi_rvalid, .m_axi_rready, .m_axi_rdata, .m_axi_rresp, .m_axi_rlast
  );
  assign request_length[4:0] = 5'd4;
  assign request_tag[1:0] = 2'd0;
  assign request_tag[3] = 1'b0;
  always_comb begin
    beats_asked = '0;
    if (grant[0]) beats_asked = request_length[4:0];
    if (grant[1]) beats_asked = request_length[9:5];
    if (grant[2]) beats_asked = request_length[14:10];
    if (grant[3]) beats_asked = request_length[19:15];
  end

  // Descriptors: to the streamer, and through a queue to the sequencer.
  logic fetched, fetch_ready, fetch_finished, streamer_ready, descriptor_valid, descriptor_pop;
  logic [511:0] fetched_descriptor, descriptor;
  logic [$clog2(QUEUE):0] queued;
  fetch #(.TILE(TILE), .ROWS(ROWS)) descriptor_fetch (
      .clk, .rst(core_rst), .base(descriptors), .count,
      .request(request[0]), .request_address(request_address[39:0]), .grant(grant[0]),
      .data_valid(data_valid[0]), .data,
      .valid(fetched), .ready(fetch_ready), .descriptor(fetched_descriptor),
      .finished(fetch_finished), .fault, .cause(fault_cause), .index
  );
  assign fetch_ready = streamer_ready && queued < ($clog2(QUEUE) + 1)'(QUEUE);
  fifo #(.WIDTH(512), .DEPTH(QUEUE)) descriptor_queue (
      .clk, .rst(core_rst), .push(fetched && fetch_ready), .in(fetched_descriptor),
      .valid(descriptor_valid), .out(descriptor), .pop(descriptor_pop), .count(queued)
  );

  logic weights_wanted, weights_room, weights_narrow;
  logic [1:0] parameters_freed;
  streamer #(.BLOCKS(BLOCKS), .ENTRIES(ENTRIES)) ahead (
      .clk, .rst(core_rst), .base(descriptors),
      .valid(fetched && fetch_ready), .ready(streamer_ready), .descriptor(fetched_descriptor),
      .parameters_request(request[1]), .parameters_address(request_address[79:40]),
      .parameters_length(request_length[9:5]), .parameters_grant(grant[1]), .parameters_freed,
      .weights_request(weights_wanted), .weights_address(request_address[119:80]),
      .weights_length(request_length[14:10]), .weights_narrow, .weights_grant(grant[2])
  );
  assign request[2] = weights_room;
  assign request_tag[2] = weights_narrow;

  logic [BLOCKS-1:0] row_write;
  logic [3:0] row;
  logic [127:0] row_weights;
  logic weights_complete, weights_promise, take;
  weights #(.BLOCKS(BLOCKS)) next_weights (
      .clk, .rst(core_rst),
      .request(weights_wanted), .request_length(request_length[14:10]), .room(weights_room),
      .grant(grant[2]), .data_valid(data_valid[2]), .data_narrow(data_tag), .data,
      .row_write, .row, .row_weights, .complete(weights_complete), .promise(weights_promise), .take
  );

  logic [ENTRY_BITS-1:0] bias_entry, multiplier_entry, rest_entry;
  logic [511:0] bias;
  logic [271:0] multiplier;
  logic [5:0] shift, store_shift;
  logic [3:0] fraction;
  logic [1:0] activation;
  logic [16:0] residual_multiplier, store_multiplier;
  parameters #(.ENTRIES(ENTRIES)) group_parameters (
      .clk, .rst(core_rst), .data_valid(data_valid[1]), .data,
      .bias_entry, .bias, .multiplier_entry, .multiplier, .rest_entry, .shift, .fraction,
      .activation, .residual_multiplier, .store_multiplier, .store_shift
  );

  // The image.
  logic load_start, load_done, load_write;
  logic [15:0] load_bytes, load_row;
  logic [511:0] load_data;
  image_loader loader (
      .clk, .rst(core_rst), .start(load_start), .descriptor, .done(load_done), .base(image),
      .request(request[3]), .request_address(request_address[159:120]),
      .request_length(request_length[19:15]), .grant(grant[3]), .data_valid(data_valid[3]), .data,
      .ready(image_ready),
      .write(load_write), .write_bytes(load_bytes), .write_row(load_row), .write_data(load_data)
  );

  // The array: 0 is the cycle in which a vector enters.
  logic enter, low, high, step_first, tile_first, tile_last, half, segment, sequencer_idle;
  logic tile_push, tile_read, tile_written;
  logic [206:0] tile;
  logic [BITS-1:0] place;
  logic [11:0] x, y;
  logic [3:0] kernel_x, kernel_y;
  logic [7:0] group;
  sequencer #(.BLOCKS(BLOCKS), .TILE(TILE), .ENTRIES(ENTRIES)) sequence_layers (
      .clk, .rst(core_rst), .valid(descriptor_valid), .descriptor, .pop(descriptor_pop),
      .output_base(outputs[39:4]), .load_start, .load_done, .weights_complete, .weights_promise,
      .tile_push, .tile, .tile_read, .tile_written, .idle(sequencer_idle),
      .enter, .low, .high, .whole, .step_first, .tile_first, .tile_last, .half, .place,
      .x, .y, .kernel_x, .kernel_y, .segment, .group,
      .stall_weights, .stall_drain, .stall_dependency, .stall_port, .stall_fetch
  );

  logic [3:0] a_enable;
  logic [63:0] a_row;
  logic [511:0] a_data;
  logic [128*BLOCKS-1:0] lane_codes;
  source #(.BLOCKS(BLOCKS)) source_codes (
      .clk, .descriptor, .enter, .low, .high, .x, .y, .kernel_x, .kernel_y, .segment, .group,
      .bank_enable(a_enable), .bank_row(a_row), .bank_data(a_data), .codes(lane_codes)
  );

  logic take_10, narrow_11, whole_17, tile_accumulated, first_17, half_17;
  logic [BITS-1:0] place_17;
  delay #(.CYCLES(10), .RESET(1)) take_to_10 (
      .clk, .rst(core_rst), .in(step_first), .out(take_10)
  );
  delay #(.RESET(1)) take_to_11 (.clk, .rst(core_rst), .in(take_10), .out(take));
  delay #(.CYCLES(11)) narrow_to_11 (
      .clk, .rst(core_rst), .in(descriptor[layout::CONVOLVE_NARROW]), .out(narrow_11)
  );
  delay #(.CYCLES(17), .RESET(1)) whole_to_17 (.clk, .rst(core_rst), .in(whole), .out(whole_17));
  delay #(.WIDTH(2 + BITS), .CYCLES(17)) place_to_17 (
      .clk, .rst(core_rst), .in({tile_first, half, place}), .out({first_17, half_17, place_17})
  );
  delay #(.CYCLES(22), .RESET(1)) tile_to_22 (
      .clk, .rst(core_rst), .in(tile_last), .out(tile_accumulated)
  );

  logic drain_half;
  logic [BITS-1:0] drain_place;
  logic [512*BLOCKS-1:0] accumulated;
  genvar i;
  generate
    for (i = 0; i < BLOCKS; i = i + 1) begin : g_block
      logic [319:0] sums;
      mac_block block (
          .clk, .row_write(row_write[i]), .row, .row_weights, .take(take_10),
          .codes(narrow_11 ? lane_codes[128*i+:128] : lane_codes[128*(i/2)+:128]), .sums
      );
      accumulators #(.TILE(TILE)) block_sums (
          .clk, .rst(core_rst), .add(whole_17), .add_first(first_17), .add_half(half_17),
          .add_place(place_17), .sums, .drain_half, .drain_place,
          .drained(accumulated[512*i+:512])
      );
    end
  endgenerate

  logic residual_read, code_write, external_room, external_push;
  logic [1:0] residual_bank, code_bank;
  logic [15:0] residual_row, code_row;
  logic [127:0] codes;
  logic [511:0] b_data;
  logic [35:0] external_address;
  logic [2:0] external_beats;
  logic [287:0] external_values;
  drain #(.BLOCKS(BLOCKS), .TILE(TILE), .ENTRIES(ENTRIES)) results (
      .clk, .rst(core_rst), .tile_push, .tile, .tile_accumulated, .tile_read, .tile_written,
      .parameters_freed, .accumulator_half(drain_half), .accumulator_place(drain_place),
      .accumulated, .bias_entry, .bias, .multiplier_entry, .multiplier, .rest_entry, .shift,
      .fraction, .activation, .residual_multiplier, .store_multiplier, .store_shift,
      .residual_read, .residual_bank, .residual_row, .bank_data(b_data),
      .code_write, .code_bank, .code_row, .codes,
      .external_room, .external_push, .external_address, .external_beats, .external_values
  );

  // Activation memory: port a for the array, port b for results, residuals and the image.
  generate
    for (i = 0; i < 4; i = i + 1) begin : g_bank
      logic enable, write, writes, reads;
      logic [15:0] bytes, bank_row;
      logic [127:0] in;
      assign writes = code_write && code_bank == 2'(i);
      assign reads = residual_read && residual_bank == 2'(i);
      always_ff @(posedge clk) begin
        enable <= !core_rst && (load_write || writes || reads);
        write <= load_write || writes;
        bytes <= load_write ? load_bytes : '1;
        bank_row <= load_write ? load_row : writes ? code_row : residual_row;
        in <= load_write ? load_data[128*i+:128] : codes;
      end
      activation_bank #(.ROWS(ROWS)) bank (
          .clk, .a_enable(a_enable[i]), .a_row(a_row[16*i+:16]), .a_data(a_data[128*i+:128]),
          .b_enable(enable), .b_write(write), .b_bytes(bytes), .b_row(bank_row), .b_in(in),
          .b_data(b_data[128*i+:128])
      );
    end
  endgenerate

  // The memory bus, writing: outputs.
  writer bus_writer (
      .clk, .rst, .halt, .quiet(writer_quiet), .error(write_error), .waiting(write_waiting),
      .push(external_push), .push_address(external_address), .push_beats(external_beats),
      .push_values(external_values), .room(external_room), .written(beat_written),
      .m_axi_awvalid, .m_axi_awready, .m_axi_awaddr, .m_axi_awlen, .m_axi_wvalid, .m_axi_wready,
      .m_axi_wdata, .m_axi_wstrb, .m_axi_wlast, .m_axi_bvalid, .m_axi_bready, .m_axi_bresp
  );

  assign complete = fetch_finished && sequencer_idle && queued == '0 && streamer_ready
                    && writer_quiet && !core_rst;
endmodule
