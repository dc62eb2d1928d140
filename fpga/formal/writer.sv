// The write master: bursts under the rules of AXI, and every beat that is pushed is written once,
// where and as it was pushed.
module writer_properties (
    input logic         clk,
    input logic         rst,
    input logic         halt,
    input logic         push,
    input logic [35:0]  push_address,
    input logic [2:0]   push_beats,
    input logic [15:0]  numbers,
    input logic         m_axi_awready,
    input logic         m_axi_wready,
    input logic         m_axi_bvalid,
    input logic [1:0]   m_axi_bresp
);
  localparam int unsigned OPEN = 2, DEPTH = 8;

  // Of the four numbers of a beat one, of four bits with its sign; the others are handled alike.
  logic [287:0] push_values;
  always_comb begin
    push_values = '0;
    for (int i = 0; i < 4; i++) begin
      push_values[72*i+:3] = numbers[4*i+:3];
      push_values[72*i+17] = numbers[4*i+3];
    end
  end

  logic quiet, error, waiting, room, written;
  logic m_axi_awvalid, m_axi_wvalid, m_axi_wlast, m_axi_bready;
  logic [39:0] m_axi_awaddr;
  logic [7:0] m_axi_awlen;
  logic [127:0] m_axi_wdata;
  logic [15:0] m_axi_wstrb;
  writer #(.DEPTH(DEPTH), .OPEN(OPEN)) dut (
      .clk, .rst, .halt, .quiet, .error, .waiting, .push, .push_address, .push_beats,
      .push_values, .room, .written, .m_axi_awvalid, .m_axi_awready, .m_axi_awaddr, .m_axi_awlen,
      .m_axi_wvalid, .m_axi_wready, .m_axi_wdata, .m_axi_wstrb, .m_axi_wlast, .m_axi_bvalid,
      .m_axi_bready, .m_axi_bresp
  );

  // Any one beat of memory, and what is pushed for it, at most once.
  (* anyconst *) logic [35:0] watched;
  logic [35:0] place;
  logic hit, pushed, arrived;
  logic [3:0] expected, number;
  assign place = watched - push_address;
  assign hit = push && place < 36'(push_beats);
  assign number = numbers[4*place[1:0]+:4];

  // An address and the first beat of its data are shown in the same cycle.
  logic [7:0] addressed, finished, answered, sent, brought;
  logic aw_waited, fresh, moves;
  logic [39:0] begin_at, address;
  logic [4:0] done, length, beats;
  assign fresh = m_axi_awvalid && !aw_waited;
  assign address = fresh ? m_axi_awaddr : begin_at;
  assign beats = fresh ? 5'(m_axi_awlen) + 5'd1 : length;
  assign moves = (m_axi_awvalid && m_axi_awready) || (m_axi_wvalid && m_axi_wready) || m_axi_bvalid;

  logic [3:0] pushes;
  logic begun, w_waited, halted, failed;
  logic [47:0] aw_before;
  logic [144:0] w_before;
  initial begun = 1'b0;
  always_ff @(posedge clk) begin
    begun <= 1'b1;
    if (!begun) assume (rst);
    if (rst) begin
      pushed <= 1'b0;
      arrived <= 1'b0;
      pushes <= '0;
      addressed <= '0;
      finished <= '0;
      answered <= '0;
      sent <= '0;
      brought <= '0;
      failed <= 1'b0;
      aw_waited <= 1'b0;
      w_waited <= 1'b0;
      halted <= 1'b0;
      done <= '0;
    end else if (begun) begin
      assume (push_beats == 3'd1 || push_beats == 3'd2 || push_beats == 3'd4);
      assume ((push_address[2:0] & (push_beats - 3'd1)) == '0);
      if (hit) assume (!pushed);
      pushes <= pushes + 4'(push);
      if (push) assume (pushes < 4'(DEPTH));
      // The memory answers bursts that it has, address and data.
      if (m_axi_bvalid) assume (answered != addressed && answered != finished);
      addressed <= addressed + 8'(m_axi_awvalid && m_axi_awready);
      finished <= finished + 8'(m_axi_wvalid && m_axi_wready && m_axi_wlast);
      answered <= answered + 8'(m_axi_bvalid);
      sent <= sent + 8'(m_axi_wvalid && m_axi_wready);
      brought <= brought + (push ? 8'(push_beats) : 8'd0);
      halted <= halted || halt;

      // Valid waits for ready, unchanged.
      if (aw_waited) assert (m_axi_awvalid && {m_axi_awaddr, m_axi_awlen} == aw_before);
      if (w_waited)
        assert (m_axi_wvalid && {m_axi_wdata, m_axi_wstrb, m_axi_wlast} == w_before);
      aw_waited <= m_axi_awvalid && !m_axi_awready;
      w_waited <= m_axi_wvalid && !m_axi_wready;
      aw_before <= {m_axi_awaddr, m_axi_awlen};
      w_before <= {m_axi_wdata, m_axi_wstrb, m_axi_wlast};
      // Bursts of 16 beats at most, which cross no boundary of 256 bytes, as many as are allowed.
      if (m_axi_awvalid) begin
        assert (m_axi_awaddr[3:0] == '0 && m_axi_awlen < 8'd16);
        assert (9'(m_axi_awaddr[7:4]) + 9'(m_axi_awlen) < 9'd16);
      end
      assert (addressed + 8'(m_axi_awvalid) - answered <= 8'(OPEN));
      assert (finished + 8'(m_axi_wvalid) == addressed + 8'(m_axi_awvalid));
      // Data: as many beats as were announced, what was pushed, enabled unless halted.
      if (fresh) begin
        assert (m_axi_wvalid && done == '0);
        begin_at <= m_axi_awaddr;
        length <= beats;
      end
      if (m_axi_wvalid) begin
        assert (m_axi_wlast == (done + 5'd1 == beats));
        assert (m_axi_wstrb == '1 || (halted && m_axi_wstrb == '0));
        if (address[39:4] + 36'(done) == watched && m_axi_wstrb == '1 && !halted && !halt) begin
          assert (pushed && !arrived);
          assert (m_axi_wdata[31:0] == {{15{expected[3]}}, 14'd0, expected[2:0]});
        end
        if (m_axi_wready) begin
          done <= m_axi_wlast ? '0 : done + 5'd1;
          if (address[39:4] + 36'(done) == watched) arrived <= 1'b1;
        end
      end
      if (hit) begin
        pushed <= 1'b1;
        expected <= number;
      end
      assert (m_axi_bready);
      failed <= m_axi_bvalid && m_axi_bresp != '0;
      assert (error == failed);
      // The bus owes something, and nothing moves.
      assert (waiting == ((m_axi_awvalid || m_axi_wvalid || addressed != answered) && !moves));
      if (quiet) assert (addressed == finished && addressed == answered);
      // At rest where nothing is left to do, which is then all written.
      if (!halted && !halt)
        assert (quiet == (sent == brought && !m_axi_awvalid && addressed == answered));
      if (quiet && pushed && !halted) assert (arrived);
    end
  end
endmodule
