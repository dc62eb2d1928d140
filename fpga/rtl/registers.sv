// The AXI4-Lite slave and what governs a frame: start, end, errors, counters.
//
// `run` is high while a frame is computed; all but the bus masters are in reset while it is low.
// `halt` brings the bus masters to rest.
module registers #(
    parameter int unsigned BLOCKS = 2,
    parameter int unsigned TILE = 256,
    parameter int unsigned ROWS = 28672,
    parameter int unsigned CLOCK_MHZ = 250
) (
    input  logic        clk,
    input  logic        rst,

    input  logic        s_axi_awvalid,
    output logic        s_axi_awready,
    input  logic [7:0]  s_axi_awaddr,
    input  logic        s_axi_wvalid,
    output logic        s_axi_wready,
    input  logic [31:0] s_axi_wdata,
    input  logic [3:0]  s_axi_wstrb,
    output logic        s_axi_bvalid,
    input  logic        s_axi_bready,
    output logic [1:0]  s_axi_bresp,
    input  logic        s_axi_arvalid,
    output logic        s_axi_arready,
    input  logic [7:0]  s_axi_araddr,
    output logic        s_axi_rvalid,
    input  logic        s_axi_rready,
    output logic [31:0] s_axi_rdata,
    output logic [1:0]  s_axi_rresp,
    output logic        irq,

    output logic        run,
    output logic        halt,
    output logic [39:0] descriptors,
    output logic [15:0] count,
    output logic [39:0] image,
    output logic [39:0] outputs,

    input  logic        complete,        // the frame is in memory
    input  logic        fault,
    input  logic [7:0]  fault_cause,
    input  logic [15:0] index,
    input  logic        read_error,
    input  logic        write_error,
    input  logic        read_waiting,
    input  logic        write_waiting,
    input  logic        quiet,           // no transaction is open

    input  logic        vector,          // events that are counted
    input  logic        stall_weights,
    input  logic        stall_drain,
    input  logic        stall_dependency,
    input  logic        stall_port,
    input  logic        stall_fetch,
    input  logic [4:0]  beats_asked,     // for reading
    input  logic        beat_written
);
  localparam logic [1:0] IDLE = 2'd0, BEGIN = 2'd1, RUN = 2'd2, HALT = 2'd3;

  // Writes: address and data are taken together, one answer at a time.
  logic write, enable;
  logic [7:0] address;
  logic [31:0] value;
  assign write = s_axi_awvalid && s_axi_wvalid && !s_axi_bvalid && !s_axi_awready;
  assign s_axi_wready = s_axi_awready;
  assign s_axi_bresp = 2'd0;
  assign s_axi_rresp = 2'd0;
  always_ff @(posedge clk) begin
    if (rst) begin
      s_axi_awready <= 1'b0;
      s_axi_bvalid <= 1'b0;
    end else begin
      s_axi_awready <= write;
      s_axi_bvalid <= s_axi_awready || (s_axi_bvalid && !s_axi_bready);
    end
  end
  always_ff @(posedge clk) begin
    address <= {s_axi_awaddr[7:2], 2'd0};
    value <= s_axi_wdata;
    enable <= s_axi_wstrb == '1;
  end

  logic start, stop, irq_enable, set, unaligned;
  logic [31:0] timeout;
  assign set = s_axi_awready && enable;  // `address` and `value` are a register to set
  assign start = set && address == layout::REG_CONTROL && value[0] && !value[1];
  assign stop = set && address == layout::REG_CONTROL && value[1];
  assign unaligned = descriptors[5:0] != '0 || image[3:0] != '0 || outputs[5:0] != '0;
  always_ff @(posedge clk) begin
    if (rst) begin
      irq_enable <= 1'b0;
      timeout <= 32'd65536;
      descriptors <= '0;
      count <= '0;
      image <= '0;
      outputs <= '0;
    end else if (set) begin
      case (address)
        layout::REG_CONTROL: irq_enable <= value[2];
        layout::REG_DESCRIPTORS_LOW: descriptors[31:0] <= value;
        layout::REG_DESCRIPTORS_HIGH: descriptors[39:32] <= value[7:0];
        layout::REG_COUNT: count <= value[15:0];
        layout::REG_TIMEOUT: timeout <= value;
        layout::REG_IMAGE_LOW: image[31:0] <= value;
        layout::REG_IMAGE_HIGH: image[39:32] <= value[7:0];
        layout::REG_OUTPUT_LOW: outputs[31:0] <= value;
        layout::REG_OUTPUT_HIGH: outputs[39:32] <= value[7:0];
        default: ;
      endcase
    end
  end

  // The frame.
  logic [1:0] state;
  logic done, error, timed_out, read_late, write_late;
  logic [7:0] cause;
  logic [15:0] error_index;
  assign run = state == RUN;
  assign halt = state == HALT;
  always_ff @(posedge clk) begin
    if (rst) begin
      state <= IDLE;
      done <= 1'b0;
      error <= 1'b0;
      cause <= layout::CAUSE_NONE;
      error_index <= '0;
    end else begin
      if (set && address == layout::REG_STATUS) begin
        if (value[1]) done <= 1'b0;
        if (value[2]) begin
          error <= 1'b0;
          cause <= layout::CAUSE_NONE;
          error_index <= '0;
        end
      end
      case (state)
        IDLE:
        if (start) begin
          state <= BEGIN;
          done <= 1'b0;
          error <= 1'b0;
          cause <= layout::CAUSE_NONE;
          error_index <= '0;
        end
        BEGIN: begin
          state <= RUN;
          if (unaligned || count == '0) begin
            state <= IDLE;
            error <= 1'b1;
            cause <= unaligned ? layout::CAUSE_ALIGNMENT : layout::CAUSE_EMPTY;
          end
        end
        RUN: begin
          if (fault || read_error || write_error || timed_out) begin
            state <= HALT;
            error <= 1'b1;
            error_index <= index;
            cause <= read_error ? layout::CAUSE_READ : write_error ? layout::CAUSE_WRITE
                     : fault ? fault_cause : layout::CAUSE_TIMEOUT;
          end else if (complete) begin
            state <= IDLE;
            done <= 1'b1;
          end
        end
        default: if (quiet) state <= IDLE;
      endcase
      if (stop) begin
        if (state == BEGIN) state <= IDLE;
        if (state == RUN) state <= HALT;
        done <= 1'b0;
        error <= 1'b0;
        cause <= layout::CAUSE_NONE;
        error_index <= '0;
      end
    end
  end
  always_ff @(posedge clk) irq <= irq_enable && (done || error) && !rst;

  watchdog read_watchdog (.clk, .rst(!run), .waiting(read_waiting), .limit(timeout), .late(read_late));
  watchdog write_watchdog (
      .clk, .rst(!run), .waiting(write_waiting), .limit(timeout), .late(write_late)
  );
  assign timed_out = read_late || write_late;

  // Counters of the frame, kept until the next one.
  logic restart;
  logic [31:0] cycles, mac_cycles, weights_stalls, drain_stalls, dependency_stalls, port_stalls;
  logic [31:0] fetch_stalls, beats_read, beats_written;
  logic unused_bits;
  assign unused_bits = &{s_axi_awaddr[1:0], s_axi_araddr[1:0], beats_read[31:28], beats_written[31:28]};
  assign restart = state == BEGIN;
  counter count_cycles (.clk, .rst(restart), .amount(5'(run)), .value(cycles));
  counter count_macs (.clk, .rst(restart), .amount(5'(run && vector)), .value(mac_cycles));
  counter count_weights (.clk, .rst(restart), .amount(5'(run && stall_weights)), .value(weights_stalls));
  counter count_drain (.clk, .rst(restart), .amount(5'(run && stall_drain)), .value(drain_stalls));
  counter count_dependency (
      .clk, .rst(restart), .amount(5'(run && stall_dependency)), .value(dependency_stalls)
  );
  counter count_port (.clk, .rst(restart), .amount(5'(run && stall_port)), .value(port_stalls));
  counter count_fetch (.clk, .rst(restart), .amount(5'(run && stall_fetch)), .value(fetch_stalls));
  counter count_read (.clk, .rst(restart), .amount(run ? beats_asked : 5'd0), .value(beats_read));
  counter count_written (.clk, .rst(restart), .amount(5'(run && beat_written)), .value(beats_written));

  // Reads.
  logic [31:0] read_value;
  always_comb begin
    read_value = '0;
    case ({s_axi_araddr[7:2], 2'd0})
      layout::REG_ID: read_value = layout::ID;
      layout::REG_VERSION: read_value = 32'(layout::VERSION);
      layout::REG_GEOMETRY: read_value = {8'(CLOCK_MHZ / 2), 16'(TILE), 8'(BLOCKS)};
      layout::REG_ROWS: read_value = ROWS;
      layout::REG_CONTROL: read_value = {29'd0, irq_enable, 2'd0};
      layout::REG_STATUS: read_value = {error_index, cause, 5'd0, error, done, state != IDLE};
      layout::REG_DESCRIPTORS_LOW: read_value = descriptors[31:0];
      layout::REG_DESCRIPTORS_HIGH: read_value = 32'(descriptors[39:32]);
      layout::REG_COUNT: read_value = 32'(count);
      layout::REG_TIMEOUT: read_value = timeout;
      layout::REG_IMAGE_LOW: read_value = image[31:0];
      layout::REG_IMAGE_HIGH: read_value = 32'(image[39:32]);
      layout::REG_OUTPUT_LOW: read_value = outputs[31:0];
      layout::REG_OUTPUT_HIGH: read_value = 32'(outputs[39:32]);
      layout::REG_CYCLES: read_value = cycles;
      layout::REG_MAC_CYCLES: read_value = mac_cycles;
      layout::REG_STALL_WEIGHTS: read_value = weights_stalls;
      layout::REG_STALL_DRAIN: read_value = drain_stalls;
      layout::REG_STALL_DEPENDENCY: read_value = dependency_stalls;
      layout::REG_STALL_PORT: read_value = port_stalls;
      layout::REG_STALL_FETCH: read_value = fetch_stalls;
      layout::REG_READ_BYTES: read_value = {beats_read[27:0], 4'd0};
      layout::REG_WRITE_BYTES: read_value = {beats_written[27:0], 4'd0};
      default: ;
    endcase
  end
  logic read;
  assign read = s_axi_arvalid && !s_axi_arready && !s_axi_rvalid;
  always_ff @(posedge clk) begin
    if (rst) begin
      s_axi_arready <= 1'b0;
      s_axi_rvalid <= 1'b0;
    end else begin
      s_axi_arready <= read;
      s_axi_rvalid <= s_axi_arready || (s_axi_rvalid && !s_axi_rready);
    end
  end
  always_ff @(posedge clk) if (s_axi_arready) s_axi_rdata <= read_value;
endmodule
